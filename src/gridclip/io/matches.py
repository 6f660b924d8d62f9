"""Which detections are right, image by image: the file from which AP of any images can be made.

It lies beside the figures: metrics.json has metrics.matches.safetensors. Evaluation writes it;
comparisons of runs read it, without annotations, detections or torch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from gridclip.io.column_store import ColumnarFile, text_columns, write_columnar
from gridclip.io.errors import InputError
from gridclip.io.run_metrics import group_metrics

FORM = "gridclip matches 1"
SUFFIX = ".matches.safetensors"
REMEDY = "write it again: gridclip validate, or gridclip evaluate with --output"
THRESHOLDS = 10  # IoU 0.50 to 0.95
RECALLS = np.linspace(0.0, 1.0, 101)


class Matches(NamedTuple):
    """M detections and their verdicts, and the boxes to find, of I images and K categories.

    Detections are sorted by category, then by falling score, as they are ranked for AP. Only those
    are here that count: chosen by the protocol, of a category that is known to be present or absent
    in the image. Areas have no part, so APs, APm and APl cannot be made of it.
    """

    dataset: str
    protocol: str
    image_ids: Int[np.ndarray, "I"]
    category_ids: Int[np.ndarray, "K"]
    names: tuple[str, ...]
    frequencies: tuple[str, ...]  # r, c, f, or empty where the annotations do not say
    groups: Mapping[str, Sequence[int]]  # named groups: rows of the categories in each
    ends: Int64[np.ndarray, "K+1"]  # where the detections of each category begin, and the last end
    images: Int32[np.ndarray, "M"]  # row of the image
    scores: Float32[np.ndarray, "M"]
    right: Int32[np.ndarray, "M"]  # bit t: whether it found a box at an IoU of 0.5 + 0.05 t
    ignored: Int32[np.ndarray, "M"]  # bit t: whether it is neither right nor wrong there
    box_ends: Int64[np.ndarray, "K+1"]  # as `ends`, of the pairs of an image and a category
    box_images: Int32[np.ndarray, "P"]  # row of the image
    box_counts: Int32[np.ndarray, "P"]  # boxes of the category to find in it, at least 1

    def precision(
        self, weights: Int[np.ndarray, "B I"] | None = None
    ) -> Float[np.ndarray, "B 10 K"]:
        """Returns AP by IoU threshold and category, over images that are each taken so many times.

        It is the mean of the precision at 101 recalls, as lvis and pycocotools define it, and nan
        where there is no box to find. Copies of an image rank beside each other.

        Args:
            weights: How often each image counts, in each of B samples; every one once if left out.
        """
        if weights is None:
            weights = np.ones((1, len(self.image_ids)), dtype=np.int64)
        found = np.full((len(weights), THRESHOLDS, len(self.names)), np.nan)
        for category in range(len(self.names)):
            boxes = slice(*self.box_ends[category : category + 2])
            if boxes.start == boxes.stop:
                continue
            number = weights[:, self.box_images[boxes]] @ self.box_counts[boxes].astype(np.int64)
            rows = slice(*self.ends[category : category + 2])
            times = weights[:, self.images[rows]]
            for threshold in range(THRESHOLDS):
                right = (self.right[rows] >> threshold & 1).astype(bool)
                ignored = (self.ignored[rows] >> threshold & 1).astype(bool)
                found[:, threshold, category] = _mean_precision(times, right, ignored, number)
        return found

    def figures(self, precision: Float[np.ndarray, "B 10 K"]) -> dict[str, Float[np.ndarray, "B"]]:
        """Returns AP, AP50, AP75, those of r, c, f and of named groups, of each sample.

        Args:
            precision: From `precision`.
        """
        frequency = np.array(self.frequencies, dtype=object)
        frequencies = {each: np.flatnonzero(frequency == each) for each in "rcf"}
        figures = {
            "AP": _mean(precision),
            "AP50": _mean(precision[:, :1]),
            "AP75": _mean(precision[:, 5:6]),
            **{f"AP{each}": _mean(precision[..., rows]) for each, rows in frequencies.items()},
            **{f"AP50{each}": _mean(precision[:, :1, rows]) for each, rows in frequencies.items()},
        }
        for group, listed in self.groups.items():
            values = precision[..., list(listed)]
            figures |= zip(group_metrics(group), (_mean(values), _mean(values[:, :1])), strict=True)
        return figures

    def boxed_images(self) -> list[int]:
        """Returns in how many images there is a box of each category to find."""
        return np.diff(self.box_ends).tolist()

    def same_truth(self, other: "Matches") -> bool:
        """Returns whether images, categories, boxes to find and protocol are the same."""
        return self._differing(other) is None

    def require_same_truth(self, other: "Matches", file: Path) -> None:
        """Refuses matches of other images, categories or boxes, or by another protocol.

        Args:
            other: What is to be compared with these.
            file: Where it is from, for the message.

        Raises:
            InputError: naming what differs.
        """
        field = self._differing(other)
        if field is not None:
            raise InputError(
                f"is not of the same evaluation: {field} differ"
                f" ({other.dataset}, {other.protocol}; {self.dataset}, {self.protocol})",
                fix="evaluate both on the same annotations by the same protocol",
                file=file,
            )

    def _differing(self, other: "Matches") -> str | None:
        fields = ("protocol", "image_ids", "category_ids", "names", *_BOXES)
        pairs = ((field, getattr(self, field), getattr(other, field)) for field in fields)
        return next((field for field, a, b in pairs if not np.array_equal(a, b)), None)


_BOXES = ("box_ends", "box_images", "box_counts")
_DETECTIONS = ("ends", "images", "scores", "right", "ignored")


def matches_file(figures: Path) -> Path:
    """Returns where the matches of a file of figures are: beside it."""
    return figures.with_name(figures.stem + SUFFIX)


def find_matches(source: Path) -> Path:
    """Returns the matches of a run folder, of a file of figures, or the file itself.

    Raises:
        InputError: if there is none.
    """
    file = source / "metrics.json" if source.is_dir() else source
    file = file if file.name.endswith(SUFFIX) else matches_file(file)
    if not file.is_file():
        raise InputError("has no results by image", fix=REMEDY, file=file)
    return file


def write_matches(matches: Matches, file: Path) -> None:
    """Writes matches whole or not at all; equal ones give equal bytes."""
    header = {
        "dataset": matches.dataset,
        "protocol": matches.protocol,
        "groups": json.dumps({name: [*rows] for name, rows in matches.groups.items()}),
    }
    columns = {name: getattr(matches, name) for name in (*_BOXES, *_DETECTIONS)}
    columns["image_ids"] = matches.image_ids.astype(np.int64)
    columns["category_ids"] = matches.category_ids.astype(np.int64)
    for name in ("names", "frequencies"):
        columns |= text_columns(name, getattr(matches, name))
    write_columnar(file, FORM, header, columns)


def read_matches(file: Path) -> Matches:
    """Reads what `write_matches` wrote; columns are memory-mapped.

    Raises:
        InputError: if it is absent, cut short, or contradicts itself.
    """
    stored = ColumnarFile(file, FORM, REMEDY)
    image_ids, category_ids = (
        stored.column(*of) for of in (("image_ids", "I"), ("category_ids", "K"))
    )
    shapes = {
        **{"ends": "K+1", "box_ends": "K+1", "box_images": "P", "box_counts": "P"},
        **dict.fromkeys(_DETECTIONS[1:], "M"),
    }
    matches = Matches(
        dataset=stored.header["dataset"],
        protocol=stored.header["protocol"],
        image_ids=image_ids,
        category_ids=category_ids,
        names=tuple(stored.texts("names", "K").all()),
        frequencies=tuple(stored.texts("frequencies", "K").all()),
        groups=_groups(stored, len(category_ids)),
        **{name: stored.column(name, axes) for name, axes in shapes.items()},
    )
    for ends, images in ((matches.ends, matches.images), (matches.box_ends, matches.box_images)):
        sound = ends[0] == 0 and ends[-1] == len(images) and (np.diff(ends) >= 0).all()
        if not sound or (len(images) and not 0 <= images.min() <= images.max() < len(image_ids)):
            raise InputError("contradicts itself", fix=REMEDY, file=file)
    return matches


def _groups(stored: ColumnarFile, categories: int) -> dict[str, list[int]]:
    try:
        groups = json.loads(stored.header["groups"])
        found = {
            str(name): [range(categories)[row] for row in rows] for name, rows in groups.items()
        }
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(
            "names no groups of its categories", fix=REMEDY, file=stored.file
        ) from error
    return found


def _mean_precision(
    times: Int[np.ndarray, "B N"],
    right: Bool[np.ndarray, "N"],
    ignored: Bool[np.ndarray, "N"],
    number: Int[np.ndarray, "B"],
) -> Float[np.ndarray, "B"]:
    """Returns the mean over recalls of the greatest precision at that recall or more.

    Args:
        times: How often each detection counts in each sample; the best come first.
        right: Which of them found a box.
        ignored: Which count neither way.
        number: Boxes to find, in each sample.
    """
    hits = np.flatnonzero(right & ~ignored)
    # Precision is greatest just after a hit, so what lies between hits needs no look.
    counted = np.cumsum(np.where(ignored, 0, times), axis=1)[:, hits]
    found = np.cumsum(times[:, hits], axis=1)
    precision = found / np.maximum(counted, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = found / number[:, None]
    reached = np.searchsorted(RECALLS, recall, side="right")
    steps = np.diff(reached, axis=1, prepend=0)
    return np.where(number > 0, (best * steps).sum(1) / len(RECALLS), np.nan)


def _mean(precision: Float[np.ndarray, "B T S"]) -> Float[np.ndarray, "B"]:
    """Returns the mean over thresholds and categories that have a box to find; nan where none."""
    defined = ~np.isnan(precision)
    count = defined.sum((1, 2))
    total = np.where(defined, precision, 0).sum((1, 2))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
