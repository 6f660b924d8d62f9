"""Pictures with boxes drawn, and a grid of truth beside prediction after each validation."""

import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gridclip.structures import DetectionBatch, Detections

PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


class Label(NamedTuple):
    """One box to draw."""

    box: tuple[float, float, float, float]  # xyxy, pixels of the picture
    text: str


def draw(picture: Image.Image, labels: Sequence[Label]) -> Image.Image:
    """A copy of the picture with boxes and their texts; a text always has the same colour."""
    canvas = picture.convert("RGB")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(9, canvas.height // 40))
    for box, text in labels:
        colour = PALETTE[zlib.crc32(text.rsplit(" ", 1)[0].encode()) % len(PALETTE)]
        pen.rectangle(box, outline=colour, width=max(1, canvas.height // 200))
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = max(0.0, min(box[0], canvas.width - (right - left)))
        y = max(0.0, box[1] - (bottom - top) - 2)
        pen.rectangle((x, y, x + right - left + 2, y + bottom - top + 2), fill=colour)
        pen.text((x + 1 - left, y + 1 - top), text, fill="white", font=font)
    return canvas


def side_by_side(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    """Rows of pictures on one white sheet."""
    width = max(sum(picture.width + gap for picture in row) for row in rows)
    height = sum(max(picture.height for picture in row) + gap for row in rows)
    sheet, y = Image.new("RGB", (width, height), "white"), 0
    for row in rows:
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + gap
        y += max(picture.height for picture in row) + gap
    return sheet


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
