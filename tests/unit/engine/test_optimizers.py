import math
from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from gridclip.engine.optimizers import (
    OptimizerSettings,
    make_optimizer,
    make_schedule,
    planned_steps,
    rate,
    require_end,
)
from gridclip.io.errors import InputError
from gridclip.models.base import Detector


class _Tiny(Detector):
    """The least that is a detector: one pre-trained part, one new one."""

    def __init__(self):
        super().__init__()
        self.old, self.new = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, images, vocabulary): ...

    def losses(self, batch): ...

    def detect(self, images, vocabulary, records): ...

    def pretrained(self):
        return [self.old]


SETTINGS = OptimizerSettings(lr=1e-2, pretrained_factor=0.1, weight_decay=0.05, warmup=0.1)


def test_pretrained_parts_learn_slower_and_only_matrices_decay():
    tiny = _Tiny()
    groups = make_optimizer(tiny, SETTINGS).param_groups
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert found == {
        id(tiny.old.weight): (pytest.approx(1e-3), 0.05),
        id(tiny.old.bias): (pytest.approx(1e-3), 0.0),
        id(tiny.new.weight): (1e-2, 0.05),
        id(tiny.new.bias): (1e-2, 0.0),
    }


def test_the_schedule_is_applied_on_top_of_each_groups_own_rate():
    optimizer = make_optimizer(_Tiny(), SETTINGS)
    schedule = make_schedule(optimizer, SETTINGS, total_steps=100)
    for _ in range(55):
        optimizer.step()
        schedule.step()
    expected = rate(0.55, SETTINGS)
    rates = sorted({group["lr"] for group in optimizer.param_groups})
    assert rates == pytest.approx([1e-3 * expected, 1e-2 * expected])


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        ("cosine", 0.05, 0.5),  # half way up
        ("cosine", 0.1, 1.0),
        ("cosine", 0.55, 0.5),  # half way down
        ("cosine", 1.0, 0.0),
        ("constant", 0.9, 1.0),
        ("steps", 0.6, 1.0),
        ("steps", 0.7, 0.1),
        ("steps", 0.95, 0.01),
    ],
)
def test_rates_follow_their_schedule(schedule, progress, expected):
    settings = OptimizerSettings(warmup=0.1, schedule=schedule)
    assert rate(progress, settings) == pytest.approx(expected, abs=1e-9)


def test_the_first_step_already_moves():
    assert rate(0.0, SETTINGS) > 0


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"warmup": 1.0}, {"weight_decay": float("nan")}])
def test_settings_that_cannot_train_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=f"optimizer.{next(iter(wrong))}"):
        OptimizerSettings(**wrong)


def test_one_step_moves_what_is_to_learn_and_nothing_else():
    tiny = _Tiny()
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    tiny.new(tiny.old(torch.ones(1, 3, 1, 1))).sum().backward()
    make_optimizer(tiny, SETTINGS).step()
    moved = {n for n, p in tiny.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"old.weight", "old.bias", "new.weight", "new.bias"}


def test_the_fused_optimizer_makes_the_same_step():
    moved = []
    for fused in (False, True):
        torch.manual_seed(0)
        tiny = _Tiny()
        optimizer = make_optimizer(tiny, OptimizerSettings(weight_decay=0.05, fused=fused))
        for _ in range(3):
            optimizer.zero_grad()
            tiny.new(tiny.old(torch.ones(1, 3, 2, 2))).square().sum().backward()
            optimizer.step()
        moved.append([parameter.detach() for parameter in tiny.parameters()])
    for one, other in zip(*moved, strict=True):
        assert torch.allclose(one, other, rtol=1e-5)


@pytest.mark.field
@pytest.mark.parametrize(
    ("limits", "ends"),
    [
        ({"max_steps": -1, "max_epochs": -1}, False),
        ({"max_epochs": -1, "max_time": timedelta(seconds=20)}, False),
        ({"max_epochs": -1, "min_epochs": 3}, False),
        ({}, True),  # Lightning ends at 1000 epochs
        ({"max_steps": 5}, True),
        ({"max_steps": 5, "max_epochs": -1}, True),
        ({"max_epochs": 2, "max_time": timedelta(seconds=20)}, True),
    ],
)
def test_a_training_needs_an_end_to_plan_its_learning_rate_over(limits, ends, tmp_path):
    trainer = Trainer(**limits, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    if ends:
        require_end(trainer)
        return
    with pytest.raises(InputError, match=r"trainer\.max_steps: the training has no end"):
        require_end(trainer)


@pytest.mark.field
def test_epochs_of_an_unknown_length_are_no_end(tmp_path):
    class Unending(Trainer):
        estimated_stepping_batches = math.inf

    trainer = Unending(max_epochs=3, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(InputError, match="no end"):
        planned_steps(trainer)
