"""What was found in an image: a list of objects that knows the size of its image.

This is what `detect` and `detect_many` return, and it stays as it is: names, scores and boxes of
`Found`, the attributes of `Findings`, and the order. It imports nothing slow.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gridclip.io.errors import needing

if TYPE_CHECKING:
    from supervision import Detections as SupervisionDetections


class Found(NamedTuple):
    """One object."""

    name: str
    score: float  # in [0, 1]
    box: tuple[float, float, float, float]  # xyxy, pixels of the original image


class Findings(list[Found]):
    """The objects of one image, best first.

    Args:
        found: The objects, best first.
        names: All names that were looked for; an object's name is one of them.
        width: Of the image, in pixels; for a file that says it lies on its side, when upright.
        height: The same.
        masks: Of each object, COCO's code (`ops.rle`) of its pixels in the image; None of a
            detector that finds boxes only.
    """

    def __init__(
        self,
        found: Iterable[Found],
        *,
        names: Sequence[str],
        width: int,
        height: int,
        masks: Sequence[bytes] | None = None,
    ) -> None:
        super().__init__(found)
        self.names, self.width, self.height = tuple(names), width, height
        self.masks = None if masks is None else tuple(masks)

    def above(self, threshold: float, limit: int | None = None) -> "Findings":
        """Returns those of at least this score, the best `limit` of them."""
        rows = [row for row, each in enumerate(self) if each.score >= threshold][:limit]
        return Findings(
            (self[row] for row in rows),
            names=self.names,
            width=self.width,
            height=self.height,
            masks=None if self.masks is None else [self.masks[row] for row in rows],
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Returns what json has of them: `name`, `score`, `box`, and where known `segmentation`."""
        rows: list[dict[str, Any]] = [
            {"name": name, "score": score, "box": [*box]} for name, score, box in self
        ]
        for row, code in zip(rows, self.masks or (), strict=False):
            row["segmentation"] = {"size": [self.height, self.width], "counts": code.decode()}
        return rows

    def to_supervision(self) -> "SupervisionDetections":
        """Returns them as supervision's `Detections`, for its annotators, trackers and metrics.

        `class_id` counts through `names`, and `data["class_name"]` has the names themselves.

        Raises:
            InputError: if supervision is not installed.
        """
        import numpy as np

        with needing("supervision"):
            import supervision
        rows = {name: row for row, name in enumerate(self.names)}
        found: SupervisionDetections = supervision.Detections(
            xyxy=np.array([each.box for each in self], dtype=np.float32).reshape(-1, 4),
            confidence=np.array([each.score for each in self], dtype=np.float32),
            class_id=np.array([rows[each.name] for each in self], dtype=int),
            data={"class_name": np.array([each.name for each in self], dtype=str)},
        )
        return found
