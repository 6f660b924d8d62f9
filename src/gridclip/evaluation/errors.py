"""What goes wrong in detection: kinds of errors and what each costs, confusions, the worst images.

The kinds are those of TIDE (Bolya et al., arXiv 2008.08115), by hotcoco: every box at an IoU of 0.5
is right or has one kind of error, and a kind costs what AP50 would gain without it. They are told
of all boxes, of rare, common and frequent names, of named groups, and by size.

The boxes are those that AP is made of (`choose`). In LVIS form a box of a name that is not verified
in its image is no error of any kind, for nobody knows whether it is right; nor is one box too many
of a name that is boxed in part there. So there are more errors than can be told.

A category whose objects are all missed gains nothing in "Miss" and "FN": TIDE leaves out of the
count what was missed, and AP of no object is taken for 0. The counts have them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gridclip.data.annotations.table import IGNORED_AREA
from gridclip.evaluation.backends import hotcoco_evaluation, numbered
from gridclip.evaluation.detections import DetectionTable
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.lvis import Scored
from gridclip.io.errors import InputError

if TYPE_CHECKING:
    from hotcoco import COCOeval

KINDS = {
    "Cls": "wrong name in the right place",
    "Loc": "right name, IoU of 0.1 to 0.5",
    "Both": "wrong name, IoU of 0.1 to 0.5",
    "Dupe": "a second box of one object",
    "Bkg": "where nothing is: IoU below 0.1",
    "Miss": "an object without any box",
}
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_ALL = (0.0, 1e10)
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
_AT_ONCE = 20  # images of one confusion matrix, which has a row for each of their categories


class Calibration(NamedTuple):
    """How scores compare with the share of boxes that are right, in ten equal bins of the score.

    Args:
        error: The mean gap between the two over all boxes (ECE); nan without a box.
        counts: Boxes in each bin.
        scores: Their mean score.
        right: The share of them that is right.
    """

    error: float
    counts: tuple[int, ...]
    scores: tuple[float, ...]
    right: tuple[float, ...]


class Part(NamedTuple):
    """Errors in a part of the detections.

    Args:
        kind: What makes the part.
        name: Which one.
        base: AP50, as a fraction.
        gains: What AP50 would gain without a kind of error; FP: without any wrong box, FN: if no
            object was missed.
        counts: Errors of each kind.
        calibration: Of its scores.
    """

    kind: Literal["all", "frequency", "group", "size"]
    name: str
    base: float
    gains: Mapping[str, float]
    counts: Mapping[str, int]
    calibration: Calibration


class Confusion(NamedTuple):
    """Objects of a category that got the name of another, in the right place."""

    truth: str
    named: str
    times: int


class WorstImage(NamedTuple):
    """An image with many errors; boxes are x, y, width, height in pixels of the original image.

    Args:
        id: Of the annotations.
        right: Name, score and box of each.
        wrong: The same.
        missed: Name and box.
    """

    id: int
    right: tuple[tuple[str, float, Sequence[float]], ...]
    wrong: tuple[tuple[str, float, Sequence[float]], ...]
    missed: tuple[tuple[str, Sequence[float]], ...]


class Errors(NamedTuple):
    """What `find_errors` finds.

    Args:
        parts: The whole first.
        least: Score from which boxes count in confusions and in images.
        confusions: The most frequent first.
        images: The worst first.
    """

    parts: tuple[Part, ...]
    least: float
    confusions: tuple[Confusion, ...]
    images: tuple[WorstImage, ...]


def find_errors(scored: Scored, *, least: float = 0.3, images: int = 20) -> Errors:
    """Finds what goes wrong.

    Of 20 000 images it takes some minutes, several times as long as AP.

    Args:
        scored: From `choose`.
        least: Boxes of this score or more count in confusions and in images: at any score there are
            hundreds an image. Kinds of errors and calibration are of all boxes.
        images: So many of the worst.

    Raises:
        InputError: if no object is annotated.
    """
    truth, found = numbered(scored.truth, scored.found)
    if not len(truth.boxes):
        fix = "give annotations with boxes"
        raise InputError("has no box, so there are no errors to tell", fix=fix, file=truth.file)
    high = found.take(found.scores >= least)
    evaluation = _evaluated(truth, high)
    worst = _worst_images(evaluation, scored.truth, truth, high, images)
    return Errors(tuple(_parts(truth, found)), least, _confusions(evaluation, truth, high), worst)


def _parts(truth: GroundTruth, found: DetectionTable) -> Iterator[Part]:
    whole = _evaluated(truth, found)
    yield _part("all", "all", whole, whole)
    for letter, name in FREQUENCIES.items():
        rows = [row for row, each in enumerate(truth.frequencies) if each == letter]
        yield from _of_categories("frequency", name, rows, truth, found)
    for name, listed in truth.groups.items():
        yield from _of_categories("group", name, listed, truth, found)
    for name, area in SIZES.items():
        if ((truth.areas >= area[0]) & (truth.areas <= area[1])).any():
            sized = _evaluated(truth, found, area)
            yield _part("size", name, sized, sized)


def _of_categories(
    kind: Literal["frequency", "group"],
    name: str,
    rows: Sequence[int],
    truth: GroundTruth,
    found: DetectionTable,
) -> Iterator[Part]:
    """Yields the part of some categories, if any has a box to find.

    Objects of all others stay where they are, because a box that lies on one is named wrong, and is
    not on background; but they are not to be found, by an area beyond all sizes. What AP gains is
    counted with the boxes of all names, as an object that another name's box lies on is not missed,
    and the errors with the boxes of these names alone.
    """
    own = np.isin(truth.box_categories, rows)  # numbered: a category's id is its row
    if own.any():
        part = truth._replace(areas=np.where(own, truth.areas, IGNORED_AREA))
        alone = found.take(np.isin(found.category_ids, rows))
        yield _part(kind, name, _evaluated(part, found), _evaluated(part, alone))


def _evaluated(
    truth: GroundTruth, found: DetectionTable, area: tuple[float, float] = _ALL
) -> "COCOeval":
    evaluation = hotcoco_evaluation(truth, found)
    evaluation.params.area_rng = [list(area)]
    evaluation.params.area_rng_lbl = ["all"]
    evaluation.evaluate()
    return evaluation


def _part(
    kind: Literal["all", "frequency", "group", "size"],
    name: str,
    among_all: "COCOeval",
    alone: "COCOeval",
) -> Part:
    costs, counted = among_all.tide_errors(), alone.tide_errors()["counts"]
    told = alone.calibration(n_bins=10)
    calibration = Calibration(
        error=told["ece"] if told["num_detections"] else float("nan"),
        counts=tuple(each["count"] for each in told["bins"]),
        scores=tuple(each["avg_confidence"] for each in told["bins"]),
        right=tuple(each["avg_accuracy"] for each in told["bins"]),
    )
    counts = {each: counted[each] for each in KINDS} | {"Miss": costs["counts"]["Miss"]}
    gains = {each: costs["delta_ap"][each] for each in (*KINDS, "FP", "FN")}
    return Part(kind, name, costs["ap_base"], gains, counts, calibration)


def _confusions(
    evaluation: "COCOeval", truth: GroundTruth, found: DetectionTable
) -> tuple[Confusion, ...]:
    """Returns the pairs of an object's category and that of the box which lies on it best.

    A matrix of all categories of LVIS for each image would fill any memory, so it is made of a few
    images at a time, with all the categories that are in these.
    """
    pairs: dict[tuple[int, int], int] = {}
    order, boxes = np.argsort(found.image_ids), np.argsort(truth.box_images)
    for first in range(0, len(truth.image_ids), _AT_ONCE):
        images = [first, min(first + _AT_ONCE, len(truth.image_ids))]
        rows = slice(*np.searchsorted(found.image_ids, images, sorter=order))
        own = slice(*np.searchsorted(truth.box_images, images, sorter=boxes))
        there = (found.category_ids[order[rows]], truth.box_categories[boxes[own]])
        evaluation.params.img_ids = list(range(*images))
        evaluation.params.cat_ids = np.unique(np.concatenate(there)).tolist()
        if not evaluation.params.cat_ids:
            continue
        told = evaluation.confusion_matrix(iou_thr=0.5)
        matrix = told["matrix"][:-1, :-1].astype(np.int64)
        np.fill_diagonal(matrix, 0)
        for row, column in np.argwhere(matrix).tolist():
            pair = told["cat_ids"][row], told["cat_ids"][column]
            pairs[pair] = pairs.get(pair, 0) + int(matrix[row, column])
    ranked = sorted(pairs, key=lambda pair: (-pairs[pair], pair))
    return tuple(Confusion(truth.names[a], truth.names[b], pairs[a, b]) for a, b in ranked)


def _worst_images(
    evaluation: "COCOeval",
    original: GroundTruth,
    truth: GroundTruth,
    found: DetectionTable,
    most: int,
) -> tuple[WorstImage, ...]:
    """Returns the images with most boxes that are wrong and objects that are missed."""
    told = evaluation.image_diagnostics(iou_thr=0.5)
    wrong = {image: each["fp"] + each["fn"] for image, each in told["img_summary"].items()}
    ids = np.sort(original.image_ids).tolist()
    worst = [
        image for image in sorted(wrong, key=lambda each: (-wrong[each], each)) if wrong[image]
    ]
    listed = []
    for image in worst[:most]:
        rows = np.flatnonzero(found.image_ids == image)
        objects = np.flatnonzero(truth.box_images == image)
        listed.append(
            WorstImage(
                ids[image],
                right=_found(told, "tp", rows, truth, found),
                wrong=_found(told, "fp", rows, truth, found),
                missed=tuple(
                    (truth.names[truth.box_categories[row]], truth.boxes[row].tolist())
                    for row in objects.tolist()
                    if told["gt_status"].get(row + 1) == "fn"
                ),
            )
        )
    return tuple(listed)


def _found(
    told: Mapping[str, Any],
    status: str,
    rows: Int[np.ndarray, "N"],
    truth: GroundTruth,
    found: DetectionTable,
) -> tuple[tuple[str, float, Sequence[float]], ...]:
    best: Float[np.ndarray, "N"] = -found.scores[rows]
    return tuple(
        (truth.names[found.category_ids[row]], float(found.scores[row]), found.boxes[row].tolist())
        for row in rows[np.argsort(best, kind="stable")].tolist()
        if told["dt_status"].get(row + 1) == status
    )
