"""Which parts of a backbone learn."""

from functools import partial

import pytest
import torch
from torch import nn

from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import TimmBackbone, recompute_backbone

NAME = "test_efficientnet.r160_in1k"


def _learning(backbone: TimmBackbone) -> set[str]:
    """The parameters that a step of plain gradient descent moves."""
    before = {name: weight.detach().clone() for name, weight in backbone.named_parameters()}
    backbone.train()
    maps = backbone.maps(torch.rand(2, 3, 64, 64))
    torch.stack([level.pow(2).mean() for level in maps]).sum().backward()
    learning = [weight for weight in backbone.parameters() if weight.requires_grad]
    torch.optim.SGD(learning, lr=1.0).step()
    return {name for name, now in backbone.named_parameters() if not now.equal(before[name])}


def test_frozen_stages_keep_their_weights_and_their_statistics_while_the_others_learn():
    """The stem and the first stage; statistics are buffers, which no optimizer would show."""
    backbone = TimmBackbone(NAME, freeze_norm=False, freeze_at=2)
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    moved = _learning(backbone)
    assert moved
    assert all(name.startswith("tower.blocks.") for name in moved)
    assert not any(name.startswith("tower.blocks.0.") for name in moved)
    still = {name for name, now in backbone.named_buffers() if now.equal(before[name])}
    means = {name for name in before if name.endswith("running_mean")}
    frozen = {"tower.bn1.running_mean"} | {n for n in means if n.startswith("tower.blocks.0.")}
    assert means & still == frozen


def test_without_freezing_every_stage_learns():
    backbone = TimmBackbone(NAME, freeze_norm=False)
    assert {"tower.conv_stem.weight", "tower.blocks.0.0.conv.weight"} <= _learning(backbone)


def test_frozen_norms_stay_in_evaluation_mode_and_come_back_from_it():
    norms = [m for m in TimmBackbone(NAME).train().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    backbone = TimmBackbone(NAME, freeze_norm=False).eval().train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.training for norm in norms)


def test_more_stages_than_there_are_cannot_be_frozen():
    with pytest.raises(InputError, match=r"(?s)freeze_at: 99 .*in \[0, "):
        TimmBackbone(NAME, freeze_at=99)


def test_swin_sees_images_of_any_size_and_its_innermost_blocks_are_recomputed():
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", drop_path=0.0)
    assert backbone.channels == (192, 384, 768)
    sizes = [(64, 96), (96, 32)]
    kept = [backbone.maps(torch.ones(1, 3, *size)) for size in sizes]
    for (height, width), maps in zip(sizes, kept, strict=True):
        truth = [(1, c, height // s, width // s) for c, s in ((192, 8), (384, 16), (768, 32))]
        assert [tuple(level.shape) for level in maps] == truth
    recompute_backbone(backbone)
    again = backbone.maps(torch.ones(1, 3, *sizes[0]))
    assert all(torch.allclose(one, two) for one, two in zip(kept[0], again, strict=True))
    wrapped = [m for m in backbone.modules() if isinstance(vars(m).get("forward"), partial)]
    assert {type(each).__name__ for each in wrapped} == {"SwinTransformerBlock"}
