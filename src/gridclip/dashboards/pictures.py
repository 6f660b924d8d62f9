"""A grid of truth beside prediction after each validation."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from gridclip.data.sheet import Label as Label
from gridclip.data.sheet import draw as draw
from gridclip.data.sheet import side_by_side as side_by_side
from gridclip.structures import DetectionBatch, Detections


class ValidationPictures(Callback):
    """After each validation: the first pictures, annotated on the left, detected on the right.

    Args:
        folder: Where the sheets go; they also go to TensorBoard and W&B.
        count: Pictures on a sheet.
        side: Height of each picture on the sheet, in pixels.
        limit: Best detections drawn in a picture.
    """

    def __init__(self, folder: Path, count: int = 8, side: int = 320, limit: int = 10) -> None:
        self.folder, self.count, self.side, self.limit = folder, count, side, limit
        self.rows: list[list[Image.Image]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature; what validation_step returns
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first pictures of the validation."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        room = self.count - len(self.rows)
        for index, found in enumerate(outputs["detections"][:room]):
            self.rows.append(self._row(batch, found, index))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the sheet, and show it to the loggers."""
        rows, self.rows = self.rows, []
        if not rows or getattr(trainer, "fast_dev_run", False):
            return
        nothing: list[Image.Image] = []
        pairs = itertools.zip_longest(rows[0::2], rows[1::2], fillvalue=nothing)
        sheet = side_by_side([left + right for left, right in pairs])
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet.save(self.folder / f"step-{trainer.global_step:07d}.jpg", quality=90)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                pixels = torch.from_numpy(np.asarray(sheet).copy()).permute(2, 0, 1)
                logger.experiment.add_image("val/pictures", pixels, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [sheet], step=None)

    def _row(self, batch: DetectionBatch, found: Detections, index: int) -> list[Image.Image]:
        height, width = batch.images.sizes[index].tolist()
        picture = _picture(batch.images.pixels[index, :, :height, :width])
        zoom = self.side / height
        picture = picture.resize((round(width * zoom), self.side), Image.Resampling.BICUBIC)
        names, record, target = batch.vocabulary.names, batch.records[index], batch.targets[index]
        truth = _labels(target.boxes * zoom, [names[label] for label in target.labels.tolist()])
        best = zip(
            found.labels[: self.limit].tolist(), found.scores[: self.limit].tolist(), strict=True
        )
        texts = [f"{names[label]} {score:.2f}" for label, score in best]
        guess = _labels(found.boxes[: self.limit] * (self.side / record.height), texts)
        return [draw(picture, truth), draw(picture, guess)]


def _labels(boxes: Float[Tensor, "T 4"], texts: list[str]) -> list[Label]:
    corners = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist()]
    return [Label(box, text) for box, text in zip(corners, texts, strict=True)]


def _picture(pixels: UInt8[Tensor, "3 h w"]) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
