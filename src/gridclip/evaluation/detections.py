"""What a detector found in a data set, as columns; from and to the LVIS results form."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gridclip.evaluation.annotations import GroundTruth
from gridclip.evaluation.records import Records, read_json


class DetectionTable(NamedTuple):
    """M boxes of any number of images, in the order in which they were found."""

    image_ids: Int[np.ndarray, "M"]
    category_ids: Int[np.ndarray, "M"]  # ids of the annotation file, not rows of a vocabulary
    boxes: Float[np.ndarray, "M 4"]  # x, y, width, height in pixels of the original image
    scores: Float[np.ndarray, "M"]

    def take(self, rows: Int[np.ndarray, "S"] | Bool[np.ndarray, "M"]) -> "DetectionTable":
        """The detections at these indices, or where this mask is true."""
        return DetectionTable(*(column[rows] for column in self))

    def to_json(self) -> list[dict[str, Any]]:
        """The LVIS results form: one object a box, sizes in pixels of the original image."""
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(
                *(column.tolist() for column in self), strict=True
            )
        ]


def read_detections(source: str | Path | list[dict[str, Any]]) -> DetectionTable:
    """Read detections in LVIS results form, which is COCO's too.

    Args:
        source: A json file, or its content: a list of {image_id, category_id, bbox, score} with
            bbox = [x, y, width, height] in pixels of the original image. It is left as it is.

    Raises:
        InputError: if it is no such list, or a value is missing or not what it should be.
    """
    file = None if isinstance(source, list) else Path(source)
    records = Records.of(read_json(file) if file else source, "detections", file)
    return DetectionTable(
        image_ids=records.ids("image_id"),
        category_ids=records.ids("category_id"),
        boxes=records.boxes(),
        scores=records.numbers("score"),
    )


def check(found: DetectionTable, truth: GroundTruth, file: Path | None) -> None:
    """Check that detections are boxes in the images and of the categories of these annotations.

    lvis ignores a detection of an unknown category, so labels counted from 0 would score 0.

    Raises:
        InputError: with the first detection that is wrong.
    """
    records = Records([], "detections", file)
    where = truth.file.name
    fix = f"evaluate against the annotations of the images that were run, not {where}"
    records.require_known(found.image_ids, "image_id", truth.image_ids, fix=fix)
    fix = f"write the ids of {where}: sorted(ids)[label], if these are labels counted from 0"
    records.require_known(found.category_ids, "category_id", truth.category_ids, fix=fix)
    good = np.isfinite(found.scores) & np.isfinite(found.boxes).all(1)
    wrong = np.flatnonzero(~good | (found.boxes[:, 2:] < 0).any(1))
    if wrong.size:
        first = int(wrong[0])
        problem = f"score {found.scores[first]}, box {found.boxes[first].tolist()}"
        fix = "return finite scores and boxes with x1 <= x2, y1 <= y2; has the model diverged?"
        records.refuse(first, None, problem, fix=fix)
