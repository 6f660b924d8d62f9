"""Detections of a data set as columns, from and to the LVIS results form."""

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int

from gridclip.data.annotations.masks import each_mask
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.masks import Masks
from gridclip.io.json_table import JsonTable, parse_json, parse_strictly, read_content
from gridclip.ops.rle import read_code

_PIECE = 100_000  # detections held as objects at a time: a results file may have millions
_EXACT = 2.0**63  # whole numbers beyond are looked at one by one


class _Detection(msgspec.Struct, gc=False):
    """What is read of a detection in its usual form; all else is skipped unparsed."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class _WithMask(_Detection, gc=False):
    segmentation: msgspec.Raw


class DetectionTable(NamedTuple):
    """M boxes of any number of images, in the order in which they were found."""

    image_ids: Int[np.ndarray, "M"]
    category_ids: Int[np.ndarray, "M"]  # ids of the annotation file, not rows of a vocabulary
    boxes: Float[np.ndarray, "M 4"]  # x, y, width, height in pixels of the original image
    scores: Float[np.ndarray, "M"]
    masks: Masks | None = None  # of detectors that have them

    def take(self, rows: Int[np.ndarray, "S"] | Bool[np.ndarray, "M"]) -> "DetectionTable":
        """Returns the detections at these indices, or where this mask is true."""
        masks = None if self.masks is None else self.masks.take(rows)
        return DetectionTable(*(column[rows] for column in self[:4]))._replace(masks=masks)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the LVIS results form: one object a box, in pixels of the original image.

        Masks, where there are any, are COCO's codes under `segmentation`.
        """
        rows: list[dict[str, Any]] = [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(
                *(column.tolist() for column in self[:4]), strict=True
            )
        ]
        if self.masks is not None:
            for row, mask in zip(rows, self.masks.to_json(), strict=True):
                row["segmentation"] = mask
        return rows


def read_detections(
    source: str | Path | list[dict[str, Any]], *, masks: bool = False
) -> DetectionTable:
    """Reads detections in LVIS results form, which is COCO's too.

    Args:
        source: A json file, or its content: a list of {image_id, category_id, bbox, score} with
            bbox = [x, y, width, height] in pixels of the original image. It is left as it is.
        masks: Whether each needs a `segmentation` too, a code of {size, counts}, and it is read.

    Raises:
        InputError: if it is no such list, or a value is missing or not what it should be.
    """
    if isinstance(source, list):
        return _table(JsonTable(None, "detections", source), masks)
    file = Path(source)
    content = read_content(file)
    try:
        tables = [_usual(rows) for rows in _pieces(content, _WithMask if masks else _Detection)]
    except (ValueError, OverflowError, RecursionError):
        # What is unusual in it, and where in the whole list?
        return _table(JsonTable(file, "detections", parse_json(file, content, masks=masks)), masks)
    columns = zip(*(table[:4] for table in tables), strict=True)
    image_ids, category_ids, boxes, scores = map(np.concatenate, columns)
    read = [table.masks for table in tables if table.masks is not None]
    joined = Masks(*map(np.concatenate, zip(*read, strict=True))) if read else None
    return DetectionTable(image_ids, category_ids, boxes, scores, joined)


def _pieces(content: bytes, form: type[_Detection]) -> Iterator[list[_Detection]]:
    """Parses some objects at a time: as objects they take five times the memory of the text.

    Raises:
        ValueError: if one is not in the usual form, such as an id that is written as 1.0.
    """
    rows = parse_strictly(content, list[msgspec.Raw])
    decode = msgspec.json.Decoder(list[form]).decode  # type: ignore[valid-type]
    for start in range(0, max(1, len(rows)), _PIECE):  # of nothing, one piece
        yield decode(b"[" + b",".join(rows[start : start + _PIECE]) + b"]")


def _usual(rows: list[_Detection]) -> DetectionTable:
    """Makes columns of objects whose types are known, without a look at each in turn.

    Raises:
        ValueError: if a number of a box or a score is beyond 64 bits, or a mask is none.
        OverflowError: if an id is.
    """
    count = len(rows)
    image_ids, category_ids = (
        np.fromiter(map(attrgetter(key), rows), np.int64, count)
        for key in ("image_id", "category_id")
    )
    corners = chain.from_iterable(map(attrgetter("bbox"), rows))
    boxes = np.fromiter(corners, np.float64, 4 * count).reshape(count, 4)
    scores = np.fromiter(map(attrgetter("score"), rows), np.float64, count)
    if any(np.abs(column).max(initial=0) >= _EXACT for column in (boxes, scores)):
        raise ValueError("not sure to be exact")
    texts = [row.segmentation for row in rows if isinstance(row, _WithMask)]
    found = [read_code(msgspec.json.decode(text)) for text in texts]
    masks = _masks(found) if len(found) == count else None
    return DetectionTable(image_ids, category_ids, boxes, scores, masks)


def _masks(found: list[tuple[bytes, tuple[int, int]]]) -> Masks:
    sizes = np.array([size for _, size in found], dtype=np.int64).reshape(-1, 2)
    return Masks.of([code for code, _ in found], sizes)


def _table(records: JsonTable, masks: bool) -> DetectionTable:
    found: list[tuple[bytes, tuple[int, int]]] = []
    if masks:
        each_mask(
            records,
            range(len(records)),
            lambda _, given: found.append(read_code(given)),
            "write each detection's mask as COCO's code, or score boxes alone (--masks false)",
        )
    return DetectionTable(
        image_ids=records.whole_numbers("image_id"),
        category_ids=records.whole_numbers("category_id"),
        boxes=records.boxes(),
        scores=records.numbers("score"),
        masks=_masks(found) if masks else None,
    )


def check(found: DetectionTable, truth: GroundTruth, file: Path | None) -> None:
    """Checks that detections are boxes in the images and of the categories of these annotations.

    lvis ignores a detection of an unknown category, so labels counted from 0 would score 0.

    Raises:
        InputError: with the count of the detections that are wrong, and examples.
    """
    where = truth.file.name
    no_box = ~np.isfinite(found.boxes).all(1) | (found.boxes[:, 2:] < 0).any(1)
    for bad, key, problem, fix in (
        (
            ~np.isin(found.image_ids, truth.image_ids),
            "image_id",
            f"of no image in {where}",
            f"evaluate against the annotations of the images that were run, not {where}",
        ),
        (
            ~np.isin(found.category_ids, truth.category_ids),
            "category_id",
            f"of no category in {where}",
            f"write the ids of {where}: sorted(ids)[label], if these are labels counted from 0",
        ),
        (
            ~np.isfinite(found.scores),
            "score",
            "whose score is not a finite number",
            "return finite scores; has the model diverged?",
        ),
        (
            no_box,
            "bbox",
            "with a box that is not finite, or of negative width or height",
            "write [x, y, width, height], not [x1, y1, x2, y2]; or has the model diverged?",
        ),
    ):
        if bad.any():
            JsonTable(file, "detections", found.to_json()).refuse(bad, key, problem, fix=fix)
    if found.masks is not None and truth.masks is not None:
        order = np.argsort(truth.image_ids)
        rows = order[np.searchsorted(truth.image_ids, found.image_ids, sorter=order)]
        JsonTable(file, "detections", found.to_json()).refuse(
            (found.masks.sizes != truth.sizes[rows]).any(1),
            "segmentation",
            f"with a mask of another size than its image has in {where}",
            fix="write masks in pixels of the original image, size as [height, width]",
        )


Protocol = Literal["standard", "fixed"]

BOXES_PER_IMAGE = 300
BOXES_PER_CATEGORY = 10_000

RULES: dict[Protocol, str] = {
    "standard": f"the best {BOXES_PER_IMAGE} boxes of an image over all categories",
    "fixed": f"the best {BOXES_PER_CATEGORY} boxes of a category over all images",
}


def select(found: DetectionTable, protocol: Protocol) -> DetectionTable:
    """Returns the boxes that a protocol scores; of equal scores the earlier ones.

    standard: the best 300 boxes an image over all categories, as LVIS defines it (lvis 0.5.3,
    LVISResults). Boxes of categories that nobody annotated in the image take part in that.
    fixed: the best 10 000 boxes a category over all images, with no cap on an image (Dave et al.,
    arXiv 2102.01066), so that one category's boxes don't push out another's.
    """
    if protocol == "standard":
        return found.take(_best_of_each(found.image_ids, found.scores, BOXES_PER_IMAGE))
    return found.take(_best_of_each(found.category_ids, found.scores, BOXES_PER_CATEGORY))


def _best_of_each(
    groups: Int[np.ndarray, "M"], scores: Float[np.ndarray, "M"], limit: int
) -> Int[np.ndarray, "S"]:
    """Returns the indices of the `limit` highest scores in each group, in their original order."""
    order = np.lexsort((-scores, groups))  # stable: equal scores keep their order
    ordered = groups[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered, side="left")
    return np.sort(order[rank < limit])
