"""Ways of keeping the old self, beside plain convolutions and loops over cells."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou

from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText
from gridclip.models.gridclip.keeping import Keeping, distilled
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.models.gridclip.prompt import Prompt
from gridclip.ops.assigners import FCOSAssigner
from gridclip.structures import DetectionBatch, Images, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="mini")


def batch():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=rng)
    boxed = Targets(torch.tensor([[4.0, 4.0, 28.0, 28.0]]), torch.tensor([1]))
    names = Vocabulary(["red plain star", "green plain ring"])
    return DetectionBatch(
        Images(pixels, torch.tensor([[64, 48]])), [boxed], names, [Record(1, "", 64, 48)]
    )


@pytest.fixture(scope="module")
def text():
    return ClipText(MINI)


def detector(text, remembers=True, **settings):
    torch.manual_seed(0)
    made = GridCLIP(
        *(ClipResNet(MINI), text, FCOSAssigner(size_factor=4.0)),
        width=16,
        num_convs=1,
        weights=LossWeights(image=0.0),
        keeping=Keeping(**settings),
    )
    if remembers:
        made.remember()
    return made.train()


def step(made):
    optimizer = torch.optim.SGD([w for w in made.parameters() if w.requires_grad], lr=0.1)
    torch.stack([*made.losses(batch()).values()]).sum().backward()
    optimizer.step()


def test_side_branches_start_at_nothing_and_only_they_learn(text):
    made = detector(text, learns="residual")
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    assert made.losses(batch())["branches"] == 0
    step(made)
    after = made.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    moved -= {"score_scale.value", "score_scale.curvature"}
    assert moved == {f"head.{of}.{part}" for of in ("embed", "box") for part in ("weight", "bias")}


def test_folded_weights_say_what_old_projection_and_branch_say_together(text):
    made = detector(text, learns="residual")
    step(made)
    made.losses(batch())
    for name, (now, old) in made.branches.pairs.items():
        for features in made.branches._features[name]:
            branch = torch.nn.Conv2d(
                now.in_channels, now.out_channels, now.kernel_size, padding=now.padding
            )
            branch.weight.data, branch.bias.data = now.weight - old.weight, now.bias - old.bias
            together = old(features) + branch(features)
            torch.testing.assert_close(now(features), together, atol=1e-5, rtol=1e-4)


def test_the_penalty_is_the_smooth_l1_norm_of_the_difference_to_old_outputs(text):
    made = detector(text, learns="residual", penalty=0.5)
    step(made)
    fine, expected = made.losses(batch())["branches"], 0.0
    for name, (now, old) in made.branches.pairs.items():
        levels = made.branches._features[name]
        gaps = [F.smooth_l1_loss(now(each), old(each)).item() for each in levels]
        expected += 0.5 * sum(gaps) / len(gaps)
    assert fine.item() > 0
    assert fine.item() == pytest.approx(expected, rel=1e-3)


def test_a_head_that_learns_alone_leaves_backbone_pyramid_and_statistics(text):
    made = detector(text, learns="head")
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    step(made)
    after = made.state_dict()
    rested = [name for name in after if name.startswith(("backbone.", "neck."))]
    assert all(torch.equal(after[name], before[name]) for name in rested)
    assert not torch.equal(after["head.embed.weight"], before["head.embed.weight"])


def test_distillation_compares_cells_of_no_object_with_the_old_self_one_by_one(text):
    made = detector(text, embeddings=1.0, boxes=1.0)
    step(made)
    given = batch()
    made.eval()
    now = made(given.images, given.vocabulary)
    owned = made.assigner(now.cells, given.targets).positive
    before, objectness = made.old(given)
    gaps, overlaps, weights = [], [], []
    for cell, (x, y) in enumerate(now.cells.centres.tolist()):
        if owned[0, cell] or x >= 48 or y >= 64:
            continue
        gaps.append(1 - torch.dot(now.embeddings[0, cell], before.embeddings[0, cell]))
        pair = generalized_box_iou(now.boxes[0, cell][None], before.boxes[0, cell][None])
        overlaps.append((1 - pair[0, 0]) * objectness[0, cell])
        weights.append(objectness[0, cell])
    found = distilled(now, given, owned, made.old)
    assert 0 < len(gaps) < owned.numel()
    assert found["kept_embeddings"].item() == pytest.approx(
        (sum(gaps) / len(gaps)).item(), rel=1e-3
    )
    assert found["kept_boxes"].item() == pytest.approx(
        (sum(overlaps) / sum(weights)).item(), rel=1e-3
    )


def test_the_old_self_stays_as_it_was_and_out_of_checkpoints(text):
    made, plain = detector(text, embeddings=1.0), detector(text, remembers=False)
    assert made.state_dict().keys() == plain.state_dict().keys()
    before = made.old(batch())[0].embeddings
    step(made)
    assert torch.equal(made.old(batch())[0].embeddings, before)


def test_who_looks_back_without_an_old_self_is_told_to_start_from_a_run(text):
    with pytest.raises(InputError, match="init_from"):
        detector(text, remembers=False, learns="residual").losses(batch())


def test_keeping_beside_a_prompt_is_refused_since_it_would_change_nothing(text):
    prompt = Prompt(names=("red plain circle",))
    for settings in ({"learns": "head"}, {"embeddings": 1.0}):
        with pytest.raises(InputError, match="changes nothing where a prompt is learned"):
            GridCLIP(
                *(ClipResNet(MINI), text, FCOSAssigner(size_factor=4.0)),
                weights=LossWeights(image=0.0),
                keeping=Keeping(**settings),
                prompt=prompt,
            )
