"""The deformable head is the plain one at first, and samples where the box tower points."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from gridclip.io.errors import InputError
from gridclip.models.dense.grid_head import DeformableGridHead, GridHead, deformable_convolution

WIDTH = 8


def _heads(num_convs=2):
    torch.manual_seed(0)
    plain = GridHead(WIDTH, 6, levels=2, num_convs=num_convs)
    deformable = DeformableGridHead(WIDTH, 6, levels=2, num_convs=num_convs)
    deformable.load_state_dict(plain.state_dict(), strict=False)
    return plain, deformable


def _levels():
    chance = torch.Generator().manual_seed(1)
    return [torch.randn(2, WIDTH, *size, generator=chance) for size in ((6, 5), (3, 3))]


def test_at_the_start_it_is_the_plain_head():
    for one, two in zip(*(head(_levels()) for head in _heads()), strict=True):
        for ours, theirs in zip(one[:3], two[:3], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


def _bilinear(plane, y, x):
    """Of one channel; zero outside."""
    total = 0.0
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column]
    return total


def test_samples_lie_where_the_box_tower_points_and_count_as_it_says():
    """Modulated deformable convolution (1811.11168, Eq. 1) in loops, for one cell."""
    head = _heads(num_convs=1)[1].double()
    chance = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(head.where.weight, std=0.3, generator=chance)
    level, of_box = (
        torch.randn(1, WIDTH, 5, 5, generator=chance, dtype=torch.double) for _ in range(2)
    )
    where = head.where(of_box)[0, :, 2, 1]
    weight, total = head.embedding_tower[0].weight, torch.zeros(WIDTH, dtype=torch.double)
    for point in range(9):
        y = 2 + point // 3 - 1 + where[2 * point].item()
        x = 1 + point % 3 - 1 + where[2 * point + 1].item()
        sample = torch.stack(
            [torch.as_tensor(_bilinear(plane, y, x)).double() for plane in level[0]]
        )
        count = 2 * torch.sigmoid(where[18 + point])
        total += count * (weight[:, :, point // 3, point % 3] @ sample)
    head.embedding_tower[1] = torch.nn.Identity()  # the norm mixes cells
    head.embedding_tower[2] = torch.nn.Identity()
    assert torch.allclose(head.embedded(level, of_box)[0, :, 2, 1], total)


def test_on_a_cpu_values_and_gradients_are_those_of_torchvisions_operator():
    chance = torch.Generator().manual_seed(3)
    shapes = (2, WIDTH, 5, 7), (2, 18, 5, 7), (2, 9, 5, 7), (6, WIDTH, 3, 3)
    given = [torch.randn(*shape, generator=chance).double().requires_grad_() for shape in shapes]
    ours = deformable_convolution(*given)
    level, offsets, count, weight = given
    theirs = deform_conv2d(level, offsets, weight, padding=1, mask=count)
    assert torch.allclose(ours, theirs)
    each = [torch.autograd.grad(made.sin().sum(), given) for made in (ours, theirs)]
    for own, other in zip(*each, strict=True):
        assert torch.allclose(own, other)


def test_what_the_embeddings_learn_reaches_the_box_tower_by_the_offsets_only():
    for head, reached in zip(_heads(), (False, True), strict=True):
        torch.stack(
            [level.embeddings.square().mean() for level in head(_levels())]
        ).sum().backward()
        # Offsets start at zero weights, so at first only they themselves learn of it.
        assert head.box.weight.grad is None
        assert head.centreness.weight.grad is None
        assert all(p.grad is None or not p.grad.any() for p in head.box_tower.parameters())
        if not reached:
            continue
        assert head.where.weight.grad.abs().sum() > 0
        torch.nn.init.normal_(head.where.weight, std=0.1)
        torch.stack(
            [level.embeddings.square().mean() for level in head(_levels())]
        ).sum().backward()
        assert all(p.grad.any() for p in head.box_tower.parameters())


def test_under_mixed_precision_offsets_stay_precise():
    head = _heads()[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(_levels())[0].embeddings
    exact = head(_levels())[0].embeddings
    assert F.cosine_similarity(mixed.float(), exact, dim=1).min() > 0.99


def test_a_tower_without_convolutions_has_nothing_to_deform():
    with pytest.raises(InputError, match="num_convs"):
        DeformableGridHead(WIDTH, 6, levels=1, num_convs=0)
