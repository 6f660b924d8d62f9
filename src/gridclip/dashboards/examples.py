"""A few pictures of a validation, with their boxes as numbers: the report page draws them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gridclip.data.sheet import Label, draw

LEAST_SCORE = 0.05  # below, detections only make the page heavy
DIGITS = 1  # of a corner, after the point


class Box(NamedTuple):
    """One object, as annotated or as detected."""

    corners: tuple[float, float, float, float]  # xyxy, pixels of the example's picture
    name: str
    score: float | None = None  # in [0, 1]; None for an annotation

    @property
    def text(self) -> str:
        """What is written beside it."""
        return self.name if self.score is None else f"{self.name} {self.score:.2f}"


class Example(NamedTuple):
    """A picture, what is in it, and what was found."""

    picture: Image.Image
    truth: list[Box]
    found: list[Box]  # best first

    def sheet_row(self, side: int, limit: int) -> list[Image.Image]:
        """The picture twice, `side` pixels high: annotated, and with the best detections."""
        zoom = side / self.picture.height
        size = (round(self.picture.width * zoom), side)
        picture = self.picture.resize(size, Image.Resampling.BICUBIC)
        return [
            draw(picture, [_label(box, zoom) for box in boxes])
            for boxes in (self.truth, self.found[:limit])
        ]


def write_examples(examples: Sequence[Example], folder: Path) -> None:
    """Write examples.json and its pictures, example-1.jpg and so on, over those of before."""
    folder.mkdir(parents=True, exist_ok=True)
    content = []
    for number, example in enumerate(examples, start=1):
        name = f"example-{number}.jpg"
        example.picture.save(folder / name, quality=85)
        content.append(
            {
                "picture": name,
                "width": example.picture.width,
                "height": example.picture.height,
                "truth": [_numbers(box) for box in example.truth],
                "found": [_numbers(box) for box in example.found if _is_shown(box)],
            }
        )
    part = folder / ".examples.json"
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(folder / "examples.json")


def _numbers(box: Box) -> list[object]:
    score = [] if box.score is None else [round(box.score, 3)]
    return [*(round(corner, DIGITS) for corner in box.corners), box.name, *score]


def _is_shown(box: Box) -> bool:
    return all(map(math.isfinite, box.corners)) and (box.score or 0.0) >= LEAST_SCORE


def _label(box: Box, zoom: float) -> Label:
    x1, y1, x2, y2 = box.corners
    return Label((x1 * zoom, y1 * zoom, x2 * zoom, y2 * zoom), box.text)
