"""Four pictures in one: parts of each, around a point drawn by chance (YOLOv4, 2004.10934)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Int64

from gridclip.data.views import Example, crop, resize

PICTURES = 4


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Joins parts of four pictures into one of the size of the first, objects as large as they are.

    Deviation: YOLOv4 and its kin draw four pictures around the middle of a canvas of twice the
    side and cut or shrink it; here each quarter is a window of its picture, at the picture's scale.

    Args:
        chance: Probability that a training picture is joined with three others.
        min_visibility: Boxes that keep less than this fraction of their area are dropped.
    """

    chance: float = 0.0
    min_visibility: float = 0.1

    def join(self, views: Sequence[Example], generator: np.random.Generator) -> Example:
        """Join views of four pictures, in reading order.

        What the whole verifies is what all parts do. Proposals are left out.

        Args:
            views: As training would show each alone. The first gives the size; a part is enlarged
                if its picture is too small for its quarter.
            generator: Of the point where they meet, in the middle half of the picture, and of what
                is seen of each.
        """
        height, width = views[0].picture.shape[:2]
        y, x = (int(generator.uniform(0.25, 0.75) * side) for side in (height, width))
        canvas = np.empty((height, width, 3), dtype=np.uint8)
        corners = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        parts = []
        for view, (left, top, right, bottom) in zip(views, corners, strict=True):
            part = self._part(view, (bottom - top, right - left), generator)
            canvas[top:bottom, left:right] = part.picture
            offset = np.array([left, top] * 2, dtype=np.float32)
            parts.append(part._replace(boxes=part.boxes + offset))
        return Example(
            canvas,
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.labels for part in parts]),
            verified=_by_all([part.verified for part in parts]),
        )

    def _part(
        self, view: Example, size: tuple[int, int], generator: np.random.Generator
    ) -> Example:
        """Cut a window of a height and width out of a view."""
        height, width = view.picture.shape[:2]
        zoom = max(size[0] / height, size[1] / width)
        if zoom > 1:
            height, width = max(size[0], round(height * zoom)), max(size[1], round(width * zoom))
            view = resize(view, (height, width))
        top = int(generator.integers(height - size[0] + 1))
        left = int(generator.integers(width - size[1] + 1))
        return crop(view, (left, top, left + size[1], top + size[0]), self.min_visibility)


def _by_all(verified: Sequence[Int64[np.ndarray, "_"] | None]) -> Int64[np.ndarray, "V"] | None:
    """Names that every part verifies; a part without a list verifies all."""
    lists = [names for names in verified if names is not None]
    return reduce(np.intersect1d, lists) if lists else None
