"""The run folder: the recipe, the weights, the history and the figures of one training.

config.yaml            the recipe, complete
checkpoints/last.ckpt  tensors and counters only; always whole
history.jsonl          one line per validation
categories.csv         AP of each category, and how many training images show it
metrics.matches.safetensors  which detections are right, image by image (io/matches.py)
metrics.json           written last, and only when the evaluation is complete
evaluated.yaml         in place of config.yaml: what validate, test or predict were asked, by the
                       weights that they name
pictures/              annotations beside detections
"""

import csv
import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from gridclip.data.vocabulary import image_counts
from gridclip.engine.callbacks import loggers
from gridclip.evaluation.lvis import write_metrics
from gridclip.io.files import write_text
from gridclip.io.matches import matches_file, write_matches


class SaveRecipe(SaveConfigCallback):
    """Writes config.yaml into the run folder, so that `gridclip.load` can rebuild the model.

    An evaluation alone is no such run: its settings, with the weights' file, are evaluated.yaml.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the recipe whole."""
        if bool(getattr(trainer, "fast_dev_run", False)):
            return
        name = "config.yaml" if stage == "fit" else "evaluated.yaml"
        recipe = self.config.clone()
        # Not the folder: another run of this recipe must not write over this one.
        recipe.run_dir = None
        recipe.trust = False  # nobody is trusted by what they wrote themselves
        text = self.parser.dump(recipe, skip_none=False)
        write_text(Path(self.config.run_dir) / name, text)


class RunFiles(Callback):
    """Writes history.jsonl, categories.csv, metrics.json, its matches, and detections.json.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = time.monotonic()
        self.step: int | None = None  # of the last validation within a fit

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what was measured after the checkpoint of a resumed training: it comes again.

        The final figures go too: they are of weights that the next checkpoint replaces.
        """
        if trainer.is_global_zero and not bool(getattr(trainer, "fast_dev_run", False)):
            metrics = self.folder / "metrics.json"
            for file in (metrics, matches_file(metrics), self.folder / "categories.csv"):
                file.unlink(missing_ok=True)
        if trainer.is_global_zero:
            loggers.announce(self.folder, trainer.loggers)
        file = self.folder / "history.jsonl"
        if trainer.ckpt_path is None or not trainer.is_global_zero or not file.exists():
            return
        kept = _lines_before(file, trainer.global_step + 1)
        write_text(file, "".join(kept))
        self.started -= json.loads(kept[-1]).get("time", 0.0) if kept else 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Appends what was measured; outside a fit it is final."""
        if trainer.sanity_checking or bool(getattr(trainer, "fast_dev_run", False)):
            return
        self.step = trainer.global_step
        self._append(trainer, pl_module)
        if trainer.state.fn != "fit":
            self.conclude(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the final figures, as after a validation outside a fit."""
        self.conclude(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes all detections in LVIS results form."""
        counted: Any = pl_module.average_precision
        results = counted.results()  # gathers over ranks, so every rank must ask
        if trainer.is_global_zero:
            write_text(self.folder / "detections.json", json.dumps(results))

    def conclude(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the final figures, metrics.json last: it marks the run as finished."""
        metrics: Any = pl_module.metrics
        if not trainer.is_global_zero or metrics is None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        write_text(self.folder / "categories.csv", categories_csv(metrics.per_category, data))
        loggers.conclude(self.folder, trainer.loggers, metrics.scalars(), step=trainer.global_step)
        file = self.folder / "metrics.json"
        counted: Any = pl_module.average_precision
        write_matches(counted.matches(), matches_file(file))
        write_metrics(metrics, file)

    def _append(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics: Any = pl_module.metrics
        if not trainer.is_global_zero or metrics is None:
            return
        figures = metrics.scalars("val/")
        line = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "time": round(time.monotonic() - self.started, 1),
            **{name: None if math.isnan(value) else value for name, value in figures.items()},
        }
        file = self.folder / "history.jsonl"
        # One line a step: what a killed process measured at this one comes again.
        lines = [*_lines_before(file, trainer.global_step), json.dumps(line) + "\n"]
        write_text(file, "".join(lines))


def _lines_before(file: Path, step: int) -> list[str]:
    """Returns the lines of a history that are of earlier steps, without one that was cut short."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [line + "\n" for line in lines if _step(line) < step]


def _step(line: str) -> float:
    """Returns the step of a line of the history; infinity for a line that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


COLUMNS = ("name", "frequency", "training_images", "AP")


def categories_csv(per_category: Mapping[str, float], data: Any) -> str:  # noqa: ANN401 - any data module
    """Returns a line for each evaluated category, in the order of the annotation file.

    Args:
        per_category: AP by category, as a fraction; nan, where it is not defined, becomes empty.
        data: The data module; what one other than DetectionData does not know stays empty.
    """
    val_set = getattr(data, "val_set", None)
    known = {each.name: each for each in val_set.annotations.categories} if val_set else {}
    counted = _counted(data)
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, precision in per_category.items():
        category = known.get(name)
        images = category.image_count if category else None
        writer.writerow(
            [
                name,
                category.frequency if category else None,
                counted.get(name) if images is None else images,
                None if math.isnan(precision) else precision,
            ]
        )
    return output.getvalue()


def _counted(data: Any) -> dict[str, int]:  # noqa: ANN401 - any data module
    """Returns the training images of each category, if they have been read; COCO files lack it."""
    train_set = vars(data).get("train_set")  # asking for it would read it
    if train_set is None:
        return {}
    names = train_set.vocabulary.names
    return dict(zip(names, image_counts(train_set.labels, len(names)).tolist(), strict=True))
