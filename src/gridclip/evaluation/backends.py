"""Two evaluators behind one signature: hotcoco, which is fast, and lvis, which is the reference.

Each takes ground truth and detections, and returns precision by IoU threshold (10), recall
threshold (101), category (K) and area bin (all, small, medium, large), with -1 where a category
has no box to find. Which boxes are scored is decided before: no backend caps anything.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from gridclip.data.annotations.schema import NEGATIVE, NOT_EXHAUSTIVE
from gridclip.data.annotations.table import Ragged
from gridclip.evaluation.detections import DetectionTable
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.masks import Masks
from gridclip.io.errors import needing

if TYPE_CHECKING:
    from hotcoco import COCOeval

Backend = Literal["hotcoco", "lvis"]

Kind = Literal["bbox", "segm"]
"""What overlaps: boxes, or masks."""


def hotcoco_precision(
    truth: GroundTruth, found: DetectionTable, kind: Kind = "bbox"
) -> Float[np.ndarray, "10 101 K 4"]:
    """Returns precision by hotcoco (Rust)."""
    evaluation = hotcoco_evaluation(*numbered(truth, found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None  # it is what accumulate makes
    precision: Float[np.ndarray, "10 101 K 4"] = evaluation.eval["precision"][..., 0]
    return precision


def hotcoco_evaluation(
    truth: GroundTruth, found: DetectionTable, kind: Kind = "bbox"
) -> "COCOeval":
    """Returns hotcoco's evaluator of LVIS boxes, or masks, before it has evaluated.

    Args:
        truth: With ids that count from 0 (`numbered`).
        found: With the same; its row number n becomes the detection of id n + 1.
        kind: Whether overlap is that of boxes or of masks, which both must then have.
    """
    import hotcoco

    annotated = hotcoco.COCO.from_arrays(
        _images(truth),
        _categories(truth),
        truth.box_images,
        truth.box_categories,
        truth.boxes,
        area=truth.areas,
        segmentation=_segmentations(truth.masks) if kind == "segm" else None,
    )
    rows: Any = np.column_stack([found.image_ids, found.boxes, found.scores, found.category_ids])
    # hotcoco caps twice: an image, when it loads results, and a category of an image, when it
    # evaluates. lvis has no second cap, which matters under the fixed protocol; lift both.
    if kind == "segm" and len(rows):
        rows = _annotations(
            image_id=found.image_ids,
            category_id=found.category_ids,
            segmentation=np.array(_segmentations(found.masks)),
            score=found.scores,
        )
    results = hotcoco.LVISResults(annotated, rows, max_dets=-1)
    evaluation = hotcoco.LVISeval(annotated, results, kind)
    evaluation.params.max_dets = [max(1, len(rows))]
    return evaluation


def lvis_precision(
    truth: GroundTruth, found: DetectionTable, kind: Kind = "bbox"
) -> Float[np.ndarray, "10 101 K 4"]:
    """Returns precision by lvis 0.5.3, some 20 times slower (benchmarks/evaluation.py)."""
    with needing("lvis"):
        from lvis import LVIS, LVISEval, LVISResults
    if not hasattr(np, "float"):  # lvis uses a name that numpy took away in 1.24
        np.float = float  # type: ignore[attr-defined]

    class InMemory:
        """Annotations that are no file."""

        def _load_json(self, dataset: dict[str, Any]) -> dict[str, Any]:
            return dataset

    class Annotated(InMemory, LVIS):  # type: ignore[misc]
        pass

    class Results(InMemory, LVISResults):  # type: ignore[misc]
        __init__ = LVIS.__init__  # that of LVISResults fails when nothing was found

    content = {"images": _images(truth), "categories": _categories(truth)}
    boxes = _annotations(
        image_id=truth.box_images,
        category_id=truth.box_categories,
        bbox=truth.boxes,
        area=truth.areas,
        **({"segmentation": np.array(_segmentations(truth.masks))} if kind == "segm" else {}),
    )
    detections = _annotations(
        image_id=found.image_ids,
        category_id=found.category_ids,
        bbox=found.boxes,
        score=found.scores,
        **_extent(found, kind),
    )
    annotated = Annotated({**content, "annotations": boxes})
    results = Results({**content, "annotations": detections})
    evaluation = LVISEval(annotated, results, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Float[np.ndarray, "10 101 K 4"] = evaluation.eval["precision"]
    return precision


PRECISION: dict[
    Backend, Callable[[GroundTruth, DetectionTable, Kind], Float[np.ndarray, "..."]]
] = {"hotcoco": hotcoco_precision, "lvis": lvis_precision}


def numbered(truth: GroundTruth, found: DetectionTable) -> tuple[GroundTruth, DetectionTable]:
    """Returns both with images and categories numbered from 0 by rising id.

    hotcoco takes detections as floats, which hold no id above 2**53, and refuses negative ids. That
    the order of the ids stays keeps the order in which equal scores rank.
    """
    images, categories = np.sort(truth.image_ids), truth.category_ids

    def numbers(listed: Ragged) -> Ragged:
        return listed._replace(values=np.searchsorted(categories, listed.values))

    numbered = truth._replace(
        image_ids=np.searchsorted(images, truth.image_ids),
        negative=numbers(truth.negative),
        not_exhaustive=numbers(truth.not_exhaustive),
        category_ids=np.arange(len(categories)),
        box_images=np.searchsorted(images, truth.box_images),
        box_categories=np.searchsorted(categories, truth.box_categories),
    )
    return numbered, found._replace(
        image_ids=np.searchsorted(images, found.image_ids),
        category_ids=np.searchsorted(categories, found.category_ids),
    )


def _images(truth: GroundTruth) -> list[dict[str, Any]]:
    ids, all_categories = truth.image_ids.tolist(), truth.category_ids.tolist()
    absent = [all_categories] * len(ids) if truth.exhaustive else _lists(truth.negative)
    partial = _lists(truth.not_exhaustive)
    return [
        {"id": image, NEGATIVE: negative, NOT_EXHAUSTIVE: not_exhaustive}
        | ({"height": height, "width": width} if height else {})
        for image, (height, width), negative, not_exhaustive in zip(
            ids, truth.sizes.tolist(), absent, partial, strict=True
        )
    ]


def _lists(ragged: Ragged) -> list[list[int]]:
    values, offsets = ragged.values.tolist(), ragged.offsets.tolist()
    return [values[first:end] for first, end in pairwise(offsets)]


def _categories(truth: GroundTruth) -> list[dict[str, Any]]:
    # Both want a frequency on each; the averages over frequencies are not theirs but ours.
    return [
        {"id": category, "name": name, "frequency": "f"}
        for category, name in zip(truth.category_ids.tolist(), truth.names, strict=True)
    ]


def _segmentations(masks: Masks | None) -> list[Any]:
    assert masks is not None  # of a kind that was asked for
    return masks.to_json()


def _extent(found: DetectionTable, kind: Kind) -> dict[str, np.ndarray]:
    if kind == "bbox":
        return {"area": found.boxes[:, 2] * found.boxes[:, 3]}
    assert found.masks is not None  # as in `_segmentations`
    return {"area": found.masks.areas, "segmentation": np.array(_segmentations(found.masks))}


def _annotations(**columns: np.ndarray) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"id": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows, 1)
    ]
