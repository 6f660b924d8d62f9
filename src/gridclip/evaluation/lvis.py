"""LVIS AP of boxes, and of masks, of a file of detections: exact, quick, by a named protocol.

Reading order: `evaluate` here, then annotations and detections (what goes in), protocol (which
boxes are scored) and backends (who does the arithmetic).
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gridclip.data.annotations.table import Annotations
from gridclip.evaluation.backends import PRECISION, Backend, Kind
from gridclip.evaluation.detections import DetectionTable, check, read_detections, select
from gridclip.evaluation.detections import Protocol as Protocol
from gridclip.evaluation.false_alarms import LIMIT, FalseAlarms, find_threshold
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.io.files import write_text
from gridclip.io.run_metrics import FALSE_ALARM_METRICS, LVIS_METRICS, group_metrics, of_masks

AT_50 = ("AP50r", "AP50c", "AP50f")


class Metrics(NamedTuple):
    """Average precision as fractions; nan where nothing defines it (no rare category, say).

    AP is the mean over IoU 0.50 to 0.95, recall, and the categories that have a box to find.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float  # boxes of up to 32² pixels
    APm: float
    APl: float  # boxes from 96² pixels on
    APr: float  # rare categories
    APc: float  # common ones
    APf: float  # frequent ones
    per_category: dict[str, float]  # AP by category name
    protocol: Protocol
    dataset: str
    num_images: int  # those evaluated, which may be fewer than the data set has
    # At IoU 0.5, as open-vocabulary COCO is reported: of held-out names (r), and of base names (f).
    AP50r: float = math.nan
    AP50c: float = math.nan
    AP50f: float = math.nan
    # Of boxes above the one score at which names that are not there are seldom found.
    APfa: float = math.nan
    AP50fa: float = math.nan
    false_alarms: FalseAlarms | None = None
    of_groups: Mapping[str, float] = {}  # AP_novel and AP50_novel of a group that is named novel
    # The same by the overlap of masks, each name after segm_; empty where none were scored.
    of_masks: Mapping[str, float] = {}

    def scalars(self, prefix: str = "") -> dict[str, float]:
        """Returns the figures for a logger, such as val/AP for the prefix "val/"."""
        names = (*LVIS_METRICS, *FALSE_ALARM_METRICS)
        figures = {name: getattr(self, name) for name in names}
        figures |= {**self.of_groups, **self.of_masks}
        return {prefix + name: value for name, value in figures.items()}

    def to_json(self) -> dict[str, Any]:
        """Returns everything in the form of json: null for nan."""
        names = (*LVIS_METRICS, *AT_50, *FALSE_ALARM_METRICS)
        figures = {name: getattr(self, name) for name in names}
        figures |= {**self.of_groups, **self.of_masks}
        alarms = self.false_alarms._asdict() if self.false_alarms else {}
        per_category = {name: _or_null(value) for name, value in self.per_category.items()}
        return {
            **{name: _or_null(value) for name, value in figures.items()},
            **{f"false_alarm_{name}": _or_null(value) for name, value in alarms.items()},
            "protocol": self.protocol,
            "dataset": self.dataset,
            "num_images": self.num_images,
            "per_category": per_category,
        }


class Scored(NamedTuple):
    """What figures are made of."""

    truth: GroundTruth  # of the images that were run
    found: DetectionTable  # chosen by the protocol, of categories known to be present or absent
    protocol: Protocol
    kind: Kind = "bbox"  # whose overlap counts


def evaluate(  # noqa: PLR0913 - what is scored, and how
    annotations: str | Path | Annotations | GroundTruth,
    detections: str | Path | list[dict[str, Any]] | DetectionTable,
    *,
    protocol: Protocol,
    image_ids: Iterable[int] | None = None,
    backend: Backend = "hotcoco",
    false_alarms: float = LIMIT,
    masks: bool = False,
) -> Metrics:
    """Scores boxes as lvis 0.5.3 does, and masks if asked.

    A detection counts only if its category is known to be present or absent in its image; one of a
    category that is not boxed exhaustively there is never wrong.

    Args:
        annotations: A json file in LVIS or COCO form, or its table, read by the rules of
            evaluation or validation.
        detections: A json file in LVIS results form, its content, or a table of the same.
        protocol: Which boxes are scored: standard (300 an image) or fixed (10 000 a category).
        image_ids: The images that were run; all of the annotation file if left out. Boxes in an
            image that was not run would count as missed.
        backend: hotcoco, or lvis as the reference. They agree to 1e-9.
        false_alarms: How many boxes of a name that is verified to be absent from an image are
            allowed on average, for APfa: the AP of the boxes above the score that keeps to it.
        masks: Score masks too, which every annotation and every detection then needs.

    Raises:
        InputError: if either file is malformed or they do not belong together, or if false_alarms
            is negative.
    """
    truth = annotations
    if not isinstance(truth, GroundTruth):
        truth = GroundTruth.of(truth, masks=masks)
    found = detections
    if not isinstance(found, DetectionTable):
        found = read_detections(found, masks=masks)
    file = Path(detections) if isinstance(detections, str | Path) else None
    boxes = choose(truth, found, protocol=protocol, image_ids=image_ids, file=file)
    metrics = measure(boxes, backend=backend, false_alarms=false_alarms)
    if not masks:
        return metrics
    shapes = choose(truth, found, protocol=protocol, image_ids=image_ids, kind="segm")
    return metrics._replace(of_masks=measure_masks(shapes, backend=backend))


def choose(
    annotations: str | Path | Annotations | GroundTruth,
    detections: str | Path | list[dict[str, Any]] | DetectionTable,
    *,
    protocol: Protocol,
    image_ids: Iterable[int] | None = None,
    kind: Kind = "bbox",
    file: Path | None = None,
) -> Scored:
    """Returns the boxes that a protocol scores, and the annotations of the images that were run.

    Args:
        annotations: As `evaluate` takes them, likewise
        detections: and
        protocol: and
        image_ids: the images that were run.
        kind: Whose overlap is to count; of masks, both need them.
        file: Where a table of detections was read, for the messages.

    Raises:
        InputError: as `evaluate`.
    """
    truth = annotations if isinstance(annotations, GroundTruth) else GroundTruth.of(annotations)
    file = Path(detections) if isinstance(detections, str | Path) else file
    found = detections if isinstance(detections, DetectionTable) else read_detections(detections)
    check(found, truth, file)
    if image_ids is not None:
        truth = truth.of_images(image_ids)
        found = found.take(np.isin(found.image_ids, truth.image_ids))
    found = select(found, protocol)
    # Places among the 300 are taken by boxes that lvis never looks at: without area, or of a
    # category that is not known to be in the image or absent there, as most are.
    found = found.take(truth.knows(found.image_ids, found.category_ids))
    if kind == "segm":
        assert found.masks is not None  # as is asked
        area = found.masks.areas
    else:
        area = found.boxes[:, 2] * found.boxes[:, 3]
    return Scored(truth, found.take(area > 0), protocol, kind)


def measure(
    scored: Scored, *, backend: Backend = "hotcoco", false_alarms: float = LIMIT
) -> Metrics:
    """Returns the figures of the boxes that were chosen.

    Raises:
        InputError: if false_alarms is negative.
    """
    truth, found, protocol, kind = scored
    precision = PRECISION[backend](truth, found, kind)
    metrics = _summarize(precision, truth, protocol)
    alarms = find_threshold(truth, found, false_alarms)
    if math.isnan(alarms.threshold):
        return metrics._replace(false_alarms=alarms)
    left = found.scores > alarms.threshold
    quiet = precision if left.all() else PRECISION[backend](truth, found.take(left), kind)
    return metrics._replace(
        APfa=_mean(quiet[..., 0]), AP50fa=_mean(quiet[0, ..., 0]), false_alarms=alarms
    )


def measure_masks(scored: Scored, *, backend: Backend = "hotcoco") -> dict[str, float]:
    """Returns the figures of masks that were chosen, by name: segm_AP and so on."""
    truth, found, protocol, kind = scored
    metrics = _summarize(PRECISION[backend](truth, found, kind), truth, protocol)
    figures = {name: getattr(metrics, name) for name in LVIS_METRICS} | {**metrics.of_groups}
    return {of_masks(name): value for name, value in figures.items()}


def write_metrics(metrics: Metrics, path: str | Path) -> None:
    """Writes the figures as json, whole or not at all; the folder is made if need be."""
    write_text(Path(path), json.dumps(metrics.to_json(), indent=2, allow_nan=False) + "\n")


def _summarize(
    precision: Float[np.ndarray, "10 101 K 4"], truth: GroundTruth, protocol: Protocol
) -> Metrics:
    overall, small, medium, large = np.moveaxis(precision, -1, 0)
    frequencies = np.array(truth.frequencies, dtype=object)
    rare, common, frequent = (np.flatnonzero(frequencies == each) for each in "rcf")
    return Metrics(
        AP=_mean(overall),
        AP50=_mean(overall[0]),
        AP75=_mean(overall[5]),
        APs=_mean(small),
        APm=_mean(medium),
        APl=_mean(large),
        APr=_mean(overall[:, :, rare]),
        APc=_mean(overall[:, :, common]),
        APf=_mean(overall[:, :, frequent]),
        per_category={name: _mean(overall[:, :, k]) for k, name in enumerate(truth.names)},
        protocol=protocol,
        dataset=truth.dataset,
        num_images=len(truth.image_ids),
        AP50r=_mean(overall[0][:, rare]),
        AP50c=_mean(overall[0][:, common]),
        AP50f=_mean(overall[0][:, frequent]),
        of_groups=_of_groups(overall, truth),
    )


def _of_groups(overall: Float[np.ndarray, "10 101 K"], truth: GroundTruth) -> dict[str, float]:
    figures: dict[str, float] = {}
    for group, listed in truth.groups.items():
        rows = list(listed)
        values = _mean(overall[:, :, rows]), _mean(overall[0][:, rows])
        figures |= zip(group_metrics(group), values, strict=True)
    return figures


def _mean(precision: Float[np.ndarray, "..."]) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else math.nan


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
