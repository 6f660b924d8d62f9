"""Twenty steps of a mini row on images of 64 x 64, by the command line, and their losses as text.

Golden losses are no truth, only what this code did when they were written: they tell whether a
change that was meant to leave learning alone did. Where one is meant to change it: `make golden`.

Tolerance. On one processor the losses are the same to the last digit. Kernels for AVX2 and for
AVX-512, and two threads or one, round differently, and training makes more of it: by 4e-5 of any
loss within the 20 steps at most, at the learning rate here. At the rows' own, ten times as high, it
is a hundred times that. So 1e-3 is rounding; a wrong weight, sign, batch or step size is far more.
ViLD's rows choose regions by score and overlap, where rounding now and then makes another choice:
with kernels for SSE alone they went other ways from step 6 on, by 13% of a loss. From there on they
are held to a third. Losses below 1e-5 are rounding all through.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from gridclip.cli import main

STEPS = 20
RATE = 2e-4  # a tenth or so of the rows': the lower, the less is made of rounding
NEAR, LOOSE, SURE = 1e-3, 1 / 3, 5  # SURE: so many first steps choose the same regions everywhere

MINI = Path(__file__).parents[2] / "experiments" / "mini"
GOLDEN = Path(__file__).parent / "losses"

NOT_TRAINED = {"crop_and_classify", "regionclip_zero_shot", "regionclip_zero_shot_proposed"}
TRAINED = sorted({file.stem for file in MINI.glob("*.yaml")} - NOT_TRAINED)
TWO_STAGE = [row for row in TRAINED if row.startswith(("vild", "regionclip"))]
# At each `make test`; the rest by `make learning`, as a row takes some three seconds.
QUICK = {"gridclip"}


def each(rows: list[str]) -> list[Any]:
    """Parameters of a test of these rows, slow but for the quick one."""
    return [pytest.param(row, marks=() if row in QUICK else pytest.mark.slow) for row in rows]


Losses = list[dict[str, float]]
"""Of each step, each loss by its name; those of the kinds of data that the step had."""


class Recorder(Callback):
    """Notes what each training step logs; named on the command line, as anyone's callback is."""

    steps: ClassVar[Losses] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.clear()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        logged = trainer.callback_metrics
        self.steps.append({name: float(logged[name]) for name in sorted(logged)})


def fit(row: str, run: str, *, steps: int = STEPS) -> Losses:
    """Train a row in the working folder, whose data/mini it reads, and tell what it has logged."""
    data = yaml.safe_load((MINI / f"{row}.yaml").read_text())["data"]["init_args"]
    main(
        ["fit", f"--config={MINI / row}.yaml", f"--run_dir={run}", f"--trainer.max_steps={steps}"]
        + [*_smaller(data, "data.init_args"), "--trainer.limit_val_batches=0"]
        + ["--trainer.deterministic=true", f"--trainer.callbacks={__name__}.Recorder", "--trust"]
        + [f"--model.optimizer.lr={RATE}"]
        + ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
        + ["--trainer.enable_model_summary=false"]
    )
    logged = Recorder.steps
    return [_new(step, before) for step, before in zip(logged, [{}, *logged], strict=False)]


def _smaller(settings: dict[str, Any], place: str) -> Iterator[str]:
    """Options that make the images and batches of every kind of training data small."""
    for name, value in settings.items():
        if name == "batch_size":
            yield f"--{place}.{name}=2"
        elif name == "resize":
            yield f'--{place}.{name}={{"shortest": [64], "longest": 64}}'
        elif isinstance(value, dict):
            yield from _smaller(value, f"{place}.{name}")


def _new(step: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """Leave out losses of other kinds of data, which Lightning tells again from steps before."""
    kinds = {name.rpartition("/")[0] for name in step if step[name] != before.get(name)}
    return {name: value for name, value in step.items() if name.rpartition("/")[0] in kinds}


def as_text(losses: Losses) -> str:
    """A table: a head of names, then a line for each step; "-" where a step has no such loss."""
    names = sorted({name for step in losses for name in step})
    head = ["step", *(name.removeprefix("train/") for name in names)]
    lines = [head] + [
        [str(number), *(f"{step[name]:.7g}" if name in step else "-" for name in names)]
        for number, step in enumerate(losses)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + "\n"
        for line in lines
    )


def as_losses(text: str) -> Losses:
    """Read what `as_text` has written."""
    head, *lines = (line.split()[1:] for line in text.splitlines())
    return [
        {f"train/{name}": float(cell) for name, cell in zip(head, line, strict=True) if cell != "-"}
        for line in lines
    ]


def difference(row: str, losses: Losses, golden: Losses) -> str:
    """Tell which losses are not the golden ones within rounding, and where; "" if all are."""
    told = []
    for number, (step, before) in enumerate(zip(losses, golden, strict=True)):
        if step.keys() != before.keys():
            told.append(f"step {number} has {', '.join(step)}; it had {', '.join(before)}")
        near = LOOSE if row.startswith("vild") and number >= SURE else NEAR
        told += [
            f"step {number}: {name} is {step[name]:.7g}, was {before[name]:.7g}"
            for name in step
            if name in before
            and not math.isclose(step[name], before[name], rel_tol=near, abs_tol=1e-5)
        ]
    return "\n".join(told)
