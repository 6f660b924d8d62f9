"""A sheet of annotations beside detections after each validation."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from gridclip.data.drawing import Label, draw, side_by_side
from gridclip.io.files import write_text
from gridclip.structures import DetectionBatch, Detections

LEAST_SCORE = 0.05  # below, detections only make the page heavy
DIGITS = 1  # of a corner, after the point
KEPT = 40  # detections of an example; the sheet draws fewer


class ValidationImages(Callback):
    """After each validation: the first images, annotated on the left, detected on the right.

    Args:
        folder: Folder of the sheets, which are logged too, and of the last one's images with their
            boxes as numbers.
        count: Images on a sheet.
        side: Height of each image on the sheet, in pixels.
        limit: Best detections drawn in an image of the sheet.
    """

    def __init__(self, folder: Path, count: int = 8, side: int = 320, limit: int = 10) -> None:
        self.folder, self.count, self.side, self.limit = folder, count, side, limit
        self.examples: list[ValidationExample] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature; what validation_step returns
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first images of the validation."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        room = self.count - len(self.examples)
        for index, found in enumerate(outputs["detections"][:room]):
            self.examples.append(self._example(batch, found, index))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the sheet, and logs it."""
        examples, self.examples = self.examples, []
        if not examples or getattr(trainer, "fast_dev_run", False):
            return
        rows = [example.sheet_row(self.side, self.limit) for example in examples]
        nothing: list[Image.Image] = []
        pairs = itertools.zip_longest(rows[0::2], rows[1::2], fillvalue=nothing)
        sheet = side_by_side([left + right for left, right in pairs])
        write_examples(examples, self.folder)
        sheet.save(self.folder / f"step-{trainer.global_step:07d}.jpg", quality=90)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                pixels = torch.from_numpy(np.asarray(sheet).copy()).permute(2, 0, 1)
                logger.experiment.add_image("val/pictures", pixels, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [sheet], step=None)

    def _example(self, batch: DetectionBatch, found: Detections, index: int) -> "ValidationExample":
        """Returns one image of a batch, as the detector saw it, or smaller."""
        height, width = batch.images.sizes[index].tolist()
        names, record, target = batch.vocabulary.names, batch.records[index], batch.targets[index]
        zoom = min(1.0, self.side / height)
        pixels = batch.images.pixels[index, :, :height, :width]
        image = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
        image = image.resize((round(width * zoom), round(height * zoom)), Image.Resampling.BICUBIC)
        truth = _boxes(target.boxes * zoom, [names[label] for label in target.labels.tolist()])
        found_names = [names[label] for label in found.labels[:KEPT].tolist()]
        shrunk = found.boxes[:KEPT] * (image.height / record.height)
        guesses = _boxes(shrunk, found_names, found.scores[:KEPT].tolist())
        return ValidationExample(image, truth, guesses)


class Box(NamedTuple):
    """One object, as annotated or as detected."""

    corners: tuple[float, float, float, float]  # xyxy, pixels of the example's image
    name: str
    score: float | None = None  # in [0, 1]; None for an annotation


class ValidationExample(NamedTuple):
    """An image with its annotations and detections."""

    image: Image.Image
    truth: list[Box]
    found: list[Box]  # best first

    def sheet_row(self, side: int, limit: int) -> list[Image.Image]:
        """Returns the image twice, `side` pixels high: annotated, and with the best detections."""
        zoom = side / self.image.height
        size = (round(self.image.width * zoom), side)
        image = self.image.resize(size, Image.Resampling.BICUBIC)
        return [
            draw(image, [_label(box, zoom) for box in boxes])
            for boxes in (self.truth, self.found[:limit])
        ]


def write_examples(examples: Sequence[ValidationExample], folder: Path) -> None:
    """Writes examples.json and its images, example-1.jpg and so on, over earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    content = []
    for number, example in enumerate(examples, start=1):
        name = f"example-{number}.jpg"
        example.image.save(folder / name, quality=85)
        content.append(
            {
                "picture": name,
                "width": example.image.width,
                "height": example.image.height,
                "truth": [_numbers(box) for box in example.truth],
                "found": [_numbers(box) for box in example.found if _is_shown(box)],
            }
        )
    write_text(folder / "examples.json", json.dumps(content))


def _numbers(box: Box) -> list[object]:
    score = [] if box.score is None else [round(box.score, 3)]
    return [*(round(corner, DIGITS) for corner in box.corners), box.name, *score]


def _is_shown(box: Box) -> bool:
    return all(map(math.isfinite, box.corners)) and (box.score or 0.0) >= LEAST_SCORE


def _label(box: Box, zoom: float) -> Label:
    x1, y1, x2, y2 = box.corners
    text = box.name if box.score is None else f"{box.name} {box.score:.2f}"
    return Label((x1 * zoom, y1 * zoom, x2 * zoom, y2 * zoom), text)


def _boxes(
    corners: Float[Tensor, "T 4"], names: list[str], scores: list[float] | None = None
) -> list[Box]:
    places = [(x1, y1, x2, y2) for x1, y1, x2, y2 in corners.tolist()]
    return list(map(Box, places, names, scores or itertools.repeat(None)))
