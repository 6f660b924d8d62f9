"""The released weights of RegionCLIP, on files that have their names and shapes."""

import pytest
import torch
from safetensors.torch import load_file

from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import ClipRegions
from gridclip.models.encoders.text import ClipText
from gridclip.models.regionclip.model import RegionCLIP
from gridclip.models.regionclip.released_weights import convert_regionclip
from gridclip.structures import Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="mini")
SMALL = {"blocks": (1, 1, 1, 1), "width": 16, "side": 4, "embed": 128}
SMALL_TEXT = {"width": 40, "layers": 2, "context": 32, "embed": 128}
RN50 = {"blocks": (3, 4, 6, 3), "width": 64, "side": 7, "embed": 1024}
RN50_TEXT = {"width": 512, "layers": 12, "context": 77, "embed": 1024}


def _norm(name, channels):
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds}


def image_tower(prefix, blocks, width, side, embed):
    """Names and shapes of the released image tower, as its code builds it: no batch counters."""
    shapes = {"conv1.weight": (width // 2, 3, 3, 3), "conv3.weight": (width, width // 2, 3, 3)}
    shapes |= {"conv2.weight": (width // 2, width // 2, 3, 3)}
    shapes |= _norm("bn1", width // 2) | _norm("bn2", width // 2) | _norm("bn3", width)
    inside = width
    for layer, count in enumerate(blocks, 1):
        planes = width * 2 ** (layer - 1)
        for block in range(count):
            at = f"layer{layer}.{block}"
            shapes |= {f"{at}.conv1.weight": (planes, inside, 1, 1)}
            shapes |= {f"{at}.conv2.weight": (planes, planes, 3, 3)}
            shapes |= {f"{at}.conv3.weight": (4 * planes, planes, 1, 1)}
            shapes |= _norm(f"{at}.bn1", planes) | _norm(f"{at}.bn2", planes)
            shapes |= _norm(f"{at}.bn3", 4 * planes)
            if block == 0:
                shapes |= {f"{at}.downsample.0.weight": (4 * planes, inside, 1, 1)}
                shapes |= _norm(f"{at}.downsample.1", 4 * planes)
            inside = 4 * planes
    last = 32 * width
    shapes["attnpool.positional_embedding"] = (side**2 + 1, last)
    for name, out in (("k_proj", last), ("q_proj", last), ("v_proj", last), ("c_proj", embed)):
        shapes |= {f"attnpool.{name}.weight": (out, last), f"attnpool.{name}.bias": (out,)}
    return {prefix + name: shape for name, shape in shapes.items()}


def text_tower(width, layers, context, embed):
    shapes = {"positional_embedding": (context, width), "text_projection": (width, embed)}
    shapes |= {"token_embedding.weight": (49408, width)}
    shapes |= {"ln_final.weight": (width,), "ln_final.bias": (width,)}
    for layer in range(layers):
        for name, (out, into) in {
            "attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width),
            "mlp.c_fc.": (4 * width, width), "mlp.c_proj.": (width, 4 * width),
        }.items():  # fmt: skip
            at = f"transformer.resblocks.{layer}.{name}"
            shapes |= {f"{at}weight": (out, into), f"{at}bias": (out,)}
        for norm in ("ln_1", "ln_2"):
            at = f"transformer.resblocks.{layer}.{norm}"
            shapes |= {f"{at}.weight": (width,), f"{at}.bias": (width,)}
    return {"lang_encoder." + name: shape for name, shape in shapes.items()}


def _state(*groups):
    chance = torch.Generator().manual_seed(0)
    shapes = {name: shape for group in groups for name, shape in group.items()}
    return {n: torch.rand(s, generator=chance) * 0.1 + 0.01 for n, s in shapes.items()}


def pretrained(image=SMALL, text=SMALL_TEXT):
    """A file of pre-training: student, teacher, text, and the network that proposes."""
    return _state(
        image_tower("backbone.", **image),
        image_tower("teacher_backbone.", **image),
        text_tower(**text),
        {
            "offline_backbone.bottom_up.stem.conv1.weight": (8, 3, 7, 7),
            "offline_backbone.bottom_up.res2.0.conv1.norm.running_mean": (8,),
            "offline_backbone.fpn_lateral2.weight": (8, 8, 1, 1),
            "offline_proposal_generator.rpn_head.objectness_logits.weight": (3, 8, 1, 1),
        },
    )


def trained(image=SMALL, names=48):
    """A file of a detector: no text tower, text vectors in its stead, and a box head."""
    width = image["embed"]
    return _state(
        image_tower("backbone.", **image),
        {
            "roi_heads.box_predictor.cls_score.weight": (names, width),
            "roi_heads.box_predictor.cls_bg_score.weight": (1, width),
            "roi_heads.box_predictor.test_cls_score.weight": (65, width),
            "roi_heads.box_predictor.bbox_pred.weight": (4, width),
            "roi_heads.box_predictor.bbox_pred.bias": (4,),
            "roi_heads.mask_head.deconv.weight": (8, 8, 2, 2),
        },
    )


def _save(state, folder):
    file = folder / "regionclip.pth"
    torch.save({"model": state, "iteration": 3}, file)
    return file


def test_a_pretrained_file_becomes_a_clip_with_both_towers(tmp_path):
    state, output = pretrained(), tmp_path / "made" / "clip.safetensors"
    convert_regionclip(_save(state, tmp_path), output=output, clip=MINI)
    model = ClipModel(name="gridclip-mini", weights=str(output)).create().state_dict()
    for name, tensor in model.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name == "logit_scale":
            assert tensor.exp().item() == pytest.approx(100)
            continue
        source = "lang_encoder." + name
        if name.startswith("visual."):
            source = "backbone." + name.removeprefix("visual.")
        assert tensor.equal(state[source]), name
    assert not list(tmp_path.glob("made/*boxes*"))


def test_it_starts_the_region_encoder_of_a_row(tmp_path):
    state, output = pretrained(), tmp_path / "clip.safetensors"
    convert_regionclip(_save(state, tmp_path), output=output, clip=MINI)
    regions = ClipRegions(ClipModel(name="gridclip-mini", weights=str(output)))
    assert regions.tower.layer3[0].conv2.weight.equal(state["backbone.layer3.0.conv2.weight"])
    assert regions.pool.query.bias.equal(state["backbone.attnpool.q_proj.bias"])


def test_a_trained_file_takes_clips_own_text_tower_and_brings_a_box_head(tmp_path):
    state, output = trained(), tmp_path / "clip.safetensors"
    convert_regionclip(_save(state, tmp_path), output=output, clip=MINI)
    clip = ClipModel(name="gridclip-mini", weights=str(output))
    names = Vocabulary(["red star", "cup"])
    text = ClipText(clip)
    assert text(names).equal(ClipText(MINI)(names))
    head = tmp_path / "clip-boxes.safetensors"
    detector = RegionCLIP(ClipRegions(clip), text, box_weights=str(head))
    assert detector.box.weight.equal(state["roi_heads.box_predictor.bbox_pred.weight"])
    assert detector.box.bias.equal(state["roi_heads.box_predictor.bbox_pred.bias"])


def test_without_any_text_tower_the_file_is_refused(tmp_path):
    clip = ClipModel(name="gridclip-mini", weights="random")
    with pytest.raises(InputError, match="has no text tower"):
        convert_regionclip(_save(trained(), tmp_path), output=tmp_path / "x.safetensors", clip=clip)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: s.pop("backbone.layer2.0.bn3.running_var"),
            "1 tensors are missing: visual.layer2",
        ),
        (lambda s: s.pop("lang_encoder.ln_final.bias"), "missing: ln_final.bias"),
        (lambda s: s.update({"backbone.layer9.w": torch.ones(1)}), "unknown: visual.layer9.w"),
        (
            lambda s: s.update({"head.a": torch.ones(1), "b": torch.ones(1)}),
            "2 tensors are unknown",
        ),
        (
            lambda s: s.update({"backbone.conv1.weight": torch.ones(4, 3, 3, 3)}),
            r"another shape: visual.conv1.weight \(4, 3, 3, 3\) for \(8, 3, 3, 3\)",
        ),
    ],
)
def test_missing_unknown_and_misshapen_tensors_are_listed(tmp_path, change, told):
    state = pretrained()
    change(state)
    output = tmp_path / "clip.safetensors"
    with pytest.raises(InputError, match=told):
        convert_regionclip(_save(state, tmp_path), output=output, clip=MINI)
    assert not output.exists()


def test_a_box_head_of_many_classes_is_refused(tmp_path):
    state = trained()
    state["roi_heads.box_predictor.bbox_pred.weight"] = torch.ones(192, 128)
    with pytest.raises(InputError, match=r"bbox_pred.weight \(192, 128\)"):
        convert_regionclip(_save(state, tmp_path), output=tmp_path / "c.safetensors", clip=MINI)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    file = tmp_path / "regionclip.pth"
    file.write_text("not found")
    with pytest.raises(InputError, match="cannot be read"):
        convert_regionclip(file, output=tmp_path / "c.safetensors", clip=MINI)
    with pytest.raises(InputError, match="safetensors"):
        convert_regionclip(file, output=tmp_path / "c.pt", clip=MINI)


@pytest.mark.slow
def test_a_file_of_the_released_size_is_converted(tmp_path):
    output = tmp_path / "rn50.safetensors"
    clip = ClipModel(name="RN50-quickgelu", weights="random")
    convert_regionclip(_save(pretrained(RN50, RN50_TEXT), tmp_path), output=output, clip=clip)
    assert load_file(output)["visual.attnpool.c_proj.weight"].shape == (1024, 2048)
