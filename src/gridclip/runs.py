"""The run folder: the recipe, the weights, the history and the figures of one training.

config.yaml            the recipe, complete
checkpoints/last.ckpt  tensors only
history.jsonl          one line per validation
metrics.json           written last, and only when the evaluation is complete
pictures/              truth beside prediction
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from gridclip.errors import InputError
from gridclip.evaluation.lvis import write_metrics

RUN_DIR_VARIABLE = "GRIDCLIP_RUN_DIR"


def choose_run_dir(asked: str | None, configs: list[Path], root: Path = Path("runs")) -> Path:
    """The folder of a run: as asked, as the environment says, or runs/<row>/<time>.

    The choice is left in the environment, so that the processes that Lightning starts for DDP use
    the same folder.

    Raises:
        InputError: if the folder already holds a finished run.
    """
    row = "-".join(configs[0].with_suffix("").parts[-2:]) if configs else "run"
    chosen = asked or os.environ.get(RUN_DIR_VARIABLE)
    folder = Path(chosen) if chosen else root / row / time.strftime("%Y%m%d-%H%M%S")
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    return folder


def refuse_finished(folder: Path) -> None:
    """Refuse to train into a folder whose run is finished.

    Raises:
        InputError: if metrics.json is there.
    """
    if (folder / "metrics.json").exists():
        raise InputError(
            "this folder holds a finished run",
            file=folder,
            field="run_dir",
            fix="give another --run_dir, or move the old run away",
        )


class RunFiles(Callback):
    """Writes history.jsonl after each validation, and metrics.json after the last.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Append what was measured; after `gridclip validate`, and after a fit, conclude."""
        self._record(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As after a validation."""
        self._record(trainer, pl_module)

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics: Any = pl_module.metrics
        dry = trainer.sanity_checking or bool(getattr(trainer, "fast_dev_run", False))
        if dry or not trainer.is_global_zero or metrics is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "time": round(time.monotonic() - self.started, 1),
            **{name: None if value != value else value for name, value in _scalars(metrics)},
        }
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as history:
            history.write(json.dumps(line) + "\n")
        # Within a fit more training follows; the command line evaluates once more at its end.
        if trainer.state.fn != "fit":
            write_metrics(metrics, self.folder / "metrics.json")


def _scalars(metrics: Any) -> list[tuple[str, float]]:  # noqa: ANN401
    return list(metrics.scalars("val/").items())


class SaveRecipe(SaveConfigCallback):
    """Writes config.yaml into the run folder, so that `gridclip.load` can rebuild the model."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the recipe, atomically; only a training writes one."""
        if stage != "fit" or bool(getattr(trainer, "fast_dev_run", False)):
            return
        folder = Path(self.config.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "config.yaml.part"
        self.parser.save(self.config, part, skip_none=False, overwrite=True, multifile=False)
        part.replace(folder / "config.yaml")
