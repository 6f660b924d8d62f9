import pytest
import torch
from open_clip.modified_resnet import AttentionPool2d as OpenClipPool
from timm.layers import AttentionPool2d as TimmPool
from timm.layers import resample_abs_pos_embed

from gridclip.models.encoders.attention_pool import AttentionPool, interpolate_positions


def _valid(features: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(features), *features.shape[-2:], dtype=torch.bool)


def test_the_images_vector_is_open_clips_own_at_its_native_size():
    torch.manual_seed(0)
    theirs = OpenClipPool(spacial_dim=4, embed_dim=32, num_heads=4, output_dim=16)
    features = torch.randn(2, 32, 4, 4)
    ours = AttentionPool.from_open_clip(theirs)(features, _valid(features))
    assert torch.allclose(ours.image, theirs(features), atol=1e-5)


def test_the_images_vector_is_timms_own_at_its_native_size():
    torch.manual_seed(0)
    theirs = TimmPool(32, feat_size=4, out_features=16, num_heads=4, qkv_separate=True)
    torch.nn.init.normal_(theirs.pos_embed)
    features = torch.randn(2, 32, 4, 4)
    ours = AttentionPool.from_timm(theirs)(features, _valid(features))
    assert torch.allclose(ours.image, theirs(features), atol=1e-5)


def test_a_cells_vector_is_its_own_value_projected():
    torch.manual_seed(0)
    pool = AttentionPool(width=8, heads=2, embed_dim=6, side=2)
    features = torch.randn(1, 8, 2, 2)
    grid = pool(features, _valid(features)).grid
    token = features[0, :, 1, 0] + pool.position[1 + 2 * 1 + 0]
    assert torch.allclose(grid[0, :, 1, 0], pool.project(pool.value(token)), atol=1e-6)


def test_padding_does_not_reach_the_images_vector():
    torch.manual_seed(0)
    pool = AttentionPool(width=8, heads=2, embed_dim=6, side=3)
    features, valid = torch.randn(2, 8, 3, 3), torch.ones(2, 3, 3, dtype=torch.bool)
    valid[1, :, 2] = False
    before = pool(features, valid).image
    features[1, :, :, 2] = 100
    assert torch.allclose(pool(features, valid).image, before)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (9, 4)])
def test_any_size_of_map_is_pooled(shape):
    pool = AttentionPool(width=8, heads=2, embed_dim=6, side=3)
    features = torch.randn(1, 8, *shape)
    pooled = pool(features, _valid(features))
    assert pooled.image.shape == (1, 6)
    assert pooled.grid.shape == (1, 6, *shape)


@pytest.mark.parametrize("size", [(4, 4), (7, 5), (2, 9)])
def test_positions_of_other_sizes_are_timms_interpolation_of_the_square(size):
    table = torch.randn(1 + 4 * 4, 6)
    wanted = resample_abs_pos_embed(table[None], [*size], antialias=False)[0]
    torch.testing.assert_close(interpolate_positions(table, *size), wanted)
