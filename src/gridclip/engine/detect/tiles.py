"""Sliced inference: a large image in windows that overlap, and one answer of what they show.

As in SAHI (2202.06934): windows of a fixed side and the whole image are searched, and what several
of them found counts once. Imports torch only where boxes are merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gridclip.io.errors import require_at_least, require_range

if TYPE_CHECKING:
    from gridclip.structures import Detections

Window = tuple[int, int, int, int]
"""xyxy, pixels of the image."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a large image is searched in windows.

    Args:
        side: Of a window, in pixels of the image, at least 32.
        overlap: Of neighbours, as a share of the side, in [0, 1).
        whole: Search the whole image too, where objects are that no window holds.
        measure: What tells that two boxes of one name show one object: `ios`, the intersection over
            the smaller box, which drops parts of objects that windows cut; or `iou`.
        most: Of that measure; of two boxes that share more, the better one stays.
        batch: Windows that are searched at once.
    """

    side: int = 640
    overlap: float = 0.2
    whole: bool = True
    measure: Literal["ios", "iou"] = "ios"
    most: float = 0.5
    batch: int = 8

    def __post_init__(self) -> None:
        require_range(self.side, "tiles", least=32)
        require_range(self.overlap, "overlap", least=0, below=1)
        require_range(self.most, "most", least=0, most=1)
        require_at_least(1, batch=self.batch)


def windows(width: int, height: int, tiles: Tiles) -> list[Window]:
    """Returns windows that cover an image, row by row; a small image is one window.

    The last of a row or column is moved back into the image, so that all have the same size.
    """
    columns, rows = (_starts(length, tiles) for length in (width, height))
    side = tiles.side
    return [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def _starts(length: int, tiles: Tiles) -> list[int]:
    last = max(0, length - tiles.side)
    step = max(1, tiles.side - int(tiles.overlap * tiles.side))
    return [*range(0, last, step), last]


def merged(found: Sequence["Detections"], views: Sequence[Window], tiles: Tiles) -> "Detections":
    """Returns what several windows show, once, best first, in pixels of the image.

    Args:
        found: In each window, in pixels of it.
        views: The windows.
        tiles: What tells that two boxes show one object.
    """
    import torch

    from gridclip.ops.nms import hard_nms, nms_by_smaller
    from gridclip.structures import Detections

    moved = [
        each.boxes + each.boxes.new_tensor([left, top, left, top])
        for each, (left, top, _, _) in zip(found, views, strict=True)
    ]
    boxes, scores, labels = (
        torch.cat(parts) for parts in (moved, [f.scores for f in found], [f.labels for f in found])
    )
    suppress = nms_by_smaller if tiles.measure == "ios" else hard_nms
    kept = suppress(boxes, scores, labels, tiles.most)
    return Detections(boxes[kept], scores[kept], labels[kept])
