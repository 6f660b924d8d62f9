"""Concepts of several processes: two that train together learn what one does from all they have."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from small_world import CELLS, PAIRS, WIDTH, world
from small_world import loss as loss_of
from torch import Tensor
from two_ranks import on_two_ranks

from gridclip.models.dense.word_region import WordRegionLoss
from gridclip.models.detclip.model import gather_columns
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.losses import grid_alignment

SETTINGS = [
    WordRegionLoss(regions=CELLS, nms_iou=1.0, direction=direction, matching=matching)
    for direction, matching in (
        ("text_to_image", "one"),
        ("text_to_image", "many"),
        ("image_to_text", "one"),
        ("both", "one"),
    )
]
MINE = slice(0, 2), slice(2, PAIRS)  # pairs of each process, unevenly shared

# Concepts of each process' boxes: two strings in common, in other places.
NAMES = ["dog", "red ball", "cat", "tree"], ["tree", "man", "dog"]
OWNERS = [[0, 1, -1, 3]], [[-1, 2, 0, 1]]  # rows of NAMES that each process' cells have to show


class Learnt(NamedTuple):
    loss: Tensor
    by_cells: Tensor
    by_words: Tensor


def _learn_pairs(settings, mine=slice(None)):
    cells, words, present, boxes = world()
    own = [part.clone().requires_grad_() for part in (cells[mine], words)]
    loss = loss_of(settings, *own, present[mine], boxes[mine])
    loss.backward()
    return Learnt(loss.detach(), *(part.grad for part in own))


def _vector_table():
    chance = torch.Generator().manual_seed(1)
    strings = sorted({name for names in NAMES for name in names})
    rows = F.normalize(torch.randn(len(strings), WIDTH, generator=chance), dim=-1)
    return strings, rows.double().requires_grad_()


def _learn_boxes(rank):
    """Focal loss of a process' cells with the columns of all processes."""
    strings, table = _vector_table()
    columns = gather_columns(NAMES[rank], table[[strings.index(name) for name in NAMES[rank]]])
    cells = world()[0][rank : rank + 1, :4].clone().requires_grad_()
    owners = torch.tensor(OWNERS[rank])
    owners = columns.own[owners.clamp(min=0)].masked_fill(owners < 0, -1)
    loss = grid_alignment(_cosines(cells, columns.text), owners)
    loss.backward()
    return columns.text.detach(), columns.own, Learnt(loss.detach(), cells.grad, table.grad)


def _cosines(cells, words):
    return Cosines(cells, words, torch.tensor(14.0).double(), torch.tensor(-4.6).double())


def _work(rank):
    pairs = [tuple(_learn_pairs(settings, MINE[rank])) for settings in SETTINGS]
    text, own, learnt = _learn_boxes(rank)
    return {"pairs": pairs, "text": text, "own": own, "boxes": tuple(learnt)}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return on_two_ranks(_work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_two_processes_learn_of_pairs_what_one_does_from_all(two, number):
    whole = _learn_pairs(SETTINGS[number])
    losses, by_cells, by_words = zip(*(each["pairs"][number] for each in two), strict=True)
    # As DDP does: the mean over processes.
    assert torch.stack(losses).mean().item() == pytest.approx(whole.loss.item(), abs=1e-6)
    assert torch.allclose(torch.cat(by_cells) / 2, whole.by_cells, atol=1e-6)
    assert torch.allclose(torch.stack(by_words).mean(0), whole.by_words, atol=1e-6)


def test_every_string_is_one_column_on_all_processes(two):
    strings, table = _vector_table()
    assert torch.equal(two[0]["text"], two[1]["text"])
    assert len(two[0]["text"]) == len(strings)
    for names, each in zip(NAMES, two, strict=True):
        for name, column in zip(names, each["own"].tolist(), strict=True):
            assert torch.equal(each["text"][column], table[strings.index(name)])


def test_cells_of_each_process_learn_as_one_does_that_knows_all_concepts(two):
    strings, table = _vector_table()
    losses = []
    for names, owners, number in zip(NAMES, OWNERS, (0, 1), strict=True):
        cells = world()[0][number : number + 1, :4].clone().requires_grad_()
        named = [[strings.index(names[n]) if n >= 0 else -1 for n in row] for row in owners]
        loss = grid_alignment(_cosines(cells, table), torch.tensor(named))
        (gradient,) = torch.autograd.grad(loss, cells, retain_graph=True)
        assert two[number]["boxes"][0].item() == pytest.approx(loss.item(), abs=1e-9)
        assert torch.allclose(two[number]["boxes"][1], gradient, atol=1e-9)
        losses.append(loss)
    torch.stack(losses).sum().backward()
    learnt = two[0]["boxes"][2] + two[1]["boxes"][2]
    assert torch.allclose(learnt, table.grad, atol=1e-9)
