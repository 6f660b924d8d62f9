"""Objects count the same in any share of a batch: two processes learn what one does from both."""

import pytest
import torch
import torch.nn.functional as F
from torch import distributed
from two_ranks import on_two_ranks

from gridclip.models.gridclip.region_alignment import RegionAlignment
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.losses import box_regression, centreness_agreement, grid_alignment
from gridclip.structures import RegionTargets

IMAGES, CELLS, NAMES, WIDTH = 4, 12, 5, 6
SHARES = slice(0, 1), slice(1, 4)
# Positive cells of each image: one process has one object's, the other all the rest.
POSITIVE = [1, 9, 0, 7]


def world():
    chance = torch.Generator().manual_seed(0)
    drawn = {
        "cells": F.normalize(torch.randn(IMAGES, CELLS, WIDTH, generator=chance), dim=-1),
        "text": F.normalize(torch.randn(NAMES, WIDTH, generator=chance), dim=-1),
        "seen": F.normalize(torch.randn(IMAGES, 3, WIDTH, generator=chance), dim=-1),
        "corner": 20 * torch.rand(IMAGES, CELLS, 2, generator=chance),
        "sides": 5 + 20 * torch.rand(IMAGES, CELLS, 2, generator=chance),
        "moved": torch.rand(IMAGES, CELLS, 4, generator=chance),
        "logits": torch.randn(IMAGES, CELLS, generator=chance),
        "truth": torch.rand(IMAGES, CELLS, generator=chance),
    }
    labels = torch.randint(0, NAMES, (IMAGES, CELLS), generator=chance)
    positive = torch.arange(CELLS) < torch.tensor(POSITIVE)[:, None]
    drawn = {name: value.double() for name, value in drawn.items()}
    return drawn | {"labels": torch.where(positive, labels, -1), "positive": positive}


def grid(mine, world, cells):
    text, one, nothing = world["text"], torch.tensor(10.0).double(), torch.tensor(-2.0).double()
    return grid_alignment(Cosines(cells, text, one, nothing), world["labels"][mine])


def box(mine, world, cells):
    low = world["corner"][mine].flatten(0, 1)
    true = torch.cat([low, low + world["sides"][mine].flatten(0, 1)], dim=1)
    shift = world["moved"][mine] * cells.sum(-1, keepdim=True)
    weight = (world["truth"] * world["positive"])[mine].flatten()
    return box_regression(true + shift.flatten(0, 1), true, weight)


def centre(mine, world, cells):
    logits = world["logits"][mine] * cells.sum(-1)
    truth, positive = world["truth"][mine], world["positive"][mine]
    return centreness_agreement(logits.flatten(), truth.flatten(), positive.flatten())


def region(mine, world, cells):
    owners = torch.where(world["positive"], torch.arange(CELLS) % 3, -1)[mine]
    regions = [RegionTargets(torch.zeros(3, 4), each) for each in world["seen"][mine]]
    return RegionAlignment(distance="cosine").gap(cells, owners, regions)


LOSSES = {"grid": grid, "box": box, "centreness": centre, "region": region}


def learn(loss, mine):
    cells = world()["cells"][mine].clone().requires_grad_()
    value = loss(mine, world(), cells)
    value.backward()
    return value.detach(), cells.grad


def work(rank):
    learnt = {}
    for name, loss in LOSSES.items():
        value, gradient = learn(loss, SHARES[rank])
        distributed.all_reduce(value)
        learnt[name] = [value / 2, gradient / 2]  # what DDP makes of the values and gradients
    return learnt


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return on_two_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_learn_what_one_does_from_an_uneven_batch(two, name):
    value, gradient = learn(LOSSES[name], slice(None))
    for rank, mine in enumerate(SHARES):
        assert two[rank][name][0].item() == pytest.approx(value.item(), rel=1e-6)
        torch.testing.assert_close(two[rank][name][1], gradient[mine], rtol=1e-6, atol=1e-9)


def test_a_batch_without_positives_is_divided_by_one():
    cells = world()["cells"]
    labels = torch.full((IMAGES, CELLS), -1)
    parts = (world()["text"], torch.tensor(10.0).double(), torch.tensor(-2.0).double())
    logits = 10 * cells @ parts[0].mT - 2
    loss = grid_alignment(Cosines(cells, *parts), labels)
    expected = 0.75 * (logits.sigmoid().square() * F.softplus(logits)).sum()
    torch.testing.assert_close(loss, expected)
