"""Region encoders against open_clip's, timm's and torchvision's own parts."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from gridclip.io.errors import InputError
from gridclip.models.encoders.attention_pool import AttentionPool
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import (
    ClipRegions,
    PooledRegions,
    RegionEncoder,
    whole,
)
from gridclip.structures import Images

MINI = ClipModel(name="gridclip-mini", weights="random")


def shaken(network):
    """Random batch norms too: open_clip's blocks do nothing before any training."""
    torch.manual_seed(1)
    for name, tensor in network.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            positive = name.endswith(("weight", "var"))
            tensor.copy_(
                torch.rand(tensor.shape) + 0.5 if positive else torch.randn(tensor.shape) / 2
            )
    return network.eval()


class Shaken(ClipModel):
    """One and the same random model at every call, with what makes its blocks do something."""

    def create(self):
        torch.manual_seed(0)
        return shaken(super().create())


def make_images(*sizes, padded_to=None):
    torch.manual_seed(2)
    height, width = padded_to or map(max, zip(*sizes, strict=True))
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for row, (high, wide) in enumerate(sizes):
        coarse = torch.rand(1, 3, 6, 6) * 255 / (1 + row)
        pixels[row, :, :high, :wide] = F.interpolate(coarse, (high, wide), mode="bilinear")[0]
    return Images(pixels, torch.tensor(sizes))


@pytest.mark.parametrize("name", ["gridclip-mini", pytest.param("RN50", marks=pytest.mark.slow)])
@torch.no_grad()
def test_the_whole_of_an_image_of_native_size_gets_clips_own_embedding(name):
    clip = Shaken(name=name, weights="random")
    encoder, theirs = ClipRegions(clip).eval().double(), clip.create().double()
    side = theirs.visual.image_size
    images = make_images((side, side), (side, side))
    boxes = [box.double() for box in whole(images.sizes)]
    ours = encoder.embed(encoder.maps(images), boxes)
    wanted = theirs.encode_image(encoder.norm(images.pixels))
    torch.testing.assert_close(F.normalize(ours), F.normalize(wanted), atol=1e-9, rtol=0)
    assert F.normalize(wanted).diff(dim=0).abs().max() > 1e-6  # random weights see little


@torch.no_grad()
def test_regions_are_torchvisions_roi_align_between_layer3_and_layer4():
    clip = Shaken(name="gridclip-mini", weights="random")
    encoder, visual = ClipRegions(clip).eval(), clip.create().visual
    images = make_images((96, 144), (128, 64))
    boxes = [
        torch.tensor([[3.0, 5, 77, 60], [100, 20, 144, 96]]),
        torch.tensor([[0.0, 0, 9, 128], [10.5, 20.25, 63, 100], [0, 0, 64, 128]]),
    ]
    ours = encoder.embed(encoder.maps(images), boxes)
    wanted = []
    for pixels, (height, width), regions in zip(images.pixels, images.sizes, boxes, strict=True):
        shown = visual.stem(encoder.norm(pixels[None, :, :height, :width]))
        c4 = visual.layer3(visual.layer2(visual.layer1(shown)))
        cut = roi_align(c4, [regions], 8, 1 / 16, 0, aligned=True)
        wanted.append(visual.attnpool(visual.layer4(cut)))
    torch.testing.assert_close(ours, torch.cat(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: ClipRegions(Shaken(name="gridclip-mini", weights="random")),
        lambda: PooledRegions("vit_tiny_patch16_224", width=8),
        lambda: PooledRegions("tf_efficientnet_lite0", width=8),
    ],
    ids=["clip", "vit", "efficientnet"],
)
@torch.no_grad()
def test_padding_and_neighbours_do_not_reach_an_image(encoder):
    torch.manual_seed(0)
    encoder: RegionEncoder = shaken(encoder())
    among = make_images((96, 80), (64, 160), (64, 64), (96, 80), padded_to=(128, 192))
    among.pixels[0, :, 96:], among.pixels[0, :, :, 80:] = 200, 200  # whatever the padding is
    whole_and_part = [
        torch.tensor([[0.0, 0, width, height], [width / 2, 9, width, height], [7, 3, 30, 30]])
        for height, width in among.sizes.tolist()
    ]
    together = encoder.embed(encoder.maps(among), whole_and_part).split(3)
    for row, (height, width) in enumerate(among.sizes.tolist()):
        alone = Images(among.pixels[row : row + 1, :, :height, :width], among.sizes[row : row + 1])
        one = encoder.embed(encoder.maps(alone), whole_and_part[row : row + 1])
        torch.testing.assert_close(together[row], one, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_vision_transformers_whole_image_is_the_mean_of_its_tokens_projected():
    torch.manual_seed(0)
    encoder = PooledRegions("vit_tiny_patch16_224", width=8, side=14).eval()
    images = make_images((224, 224))
    tokens = encoder.tower.patch_embed(encoder.norm(images.pixels))
    tokens = encoder.tower.blocks(encoder.tower._pos_embed(tokens))[:, 1:]
    wanted = encoder.projection(encoder.tower.norm(tokens.mean(1)))
    ours = encoder(images, whole(images.sizes))
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet10t"])
@torch.no_grad()
def test_other_networks_embed_images_of_any_size(name):
    encoder = PooledRegions(name, width=8).eval()
    images = make_images((96, 80), (64, 128))
    assert encoder(images, whole(images.sizes)).shape == (2, 8)


def test_one_question_gives_the_dense_pools_vector_with_all_its_gradients():
    torch.manual_seed(0)
    pool = AttentionPool(width=16, heads=4, embed_dim=6, side=3).double()
    features = torch.randn(5, 16, 3, 3, dtype=torch.double, requires_grad=True)
    valid = torch.ones(5, 3, 3, dtype=torch.bool)
    leaves = [features, *pool.parameters()]
    dense = pool(features, valid).image
    wanted = torch.autograd.grad(dense.square().sum(), leaves)
    lone = pool.image(features)
    torch.testing.assert_close(lone, dense)
    for ours, theirs in zip(torch.autograd.grad(lone.square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_by_default_stem_layer1_and_every_batch_norm_rest():
    encoder = ClipRegions(MINI).train()
    learns = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert not [name for name in learns if "bn" in name or "downsample.1" in name]
    assert not [name for name in learns if name.startswith(("tower.conv", "tower.layer1"))]
    assert {name.split(".")[1] for name in learns if name.startswith("tower")} == {
        "layer2",
        "layer3",
        "layer4",
    }
    assert "pool.query.weight" in learns
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.maps(make_images((64, 64)))
    assert all(torch.equal(before[name], t) for name, t in encoder.state_dict().items())


def test_batch_norms_learn_where_they_are_not_named():
    encoder = ClipRegions(MINI, freeze=("stem", "layer1")).train()
    frozen, learning = encoder.tower.layer1[0].bn1, encoder.tower.layer2[0].bn1
    assert (frozen.training, learning.training) == (False, True)
    assert learning.weight.requires_grad
    assert not encoder.eval().tower.layer2[0].bn1.training


def test_parts_of_timm_networks_rest_by_name():
    encoder = PooledRegions(
        "vit_tiny_patch16_224", width=8, freeze=("patch_embed", "blocks.0", "projection")
    )
    learns = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    resting = ("tower.patch_embed", "tower.blocks.0.", "projection")
    assert learns
    assert not [name for name in learns if name.startswith(resting)]


def test_its_weights_are_named_as_the_backbones():
    ours, theirs = ClipRegions(MINI).state_dict(), ClipResNet(MINI).state_dict()
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: ClipRegions(MINI, freeze=("layer5",)), r"layer5.*\n?.*stem, layer1.*batch_norm"),
        (lambda: PooledRegions("vit_tiny_patch16_224", width=8, freeze=("stem",)), "patch_embed"),
        (lambda: PooledRegions("tf_efficientnet_lite0"), "width of a new one"),
        (lambda: PooledRegions("resnet51x", width=8), "did you mean"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, problem):
    with pytest.raises(InputError, match=problem):
        make()
