"""What an annotation file must be, told once: for reading it, for checking it, for mending it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from gridclip.data.annotations.coco_json import CocoLists
from gridclip.data.annotations.table import Annotations, Category, Ragged
from gridclip.io.errors import InputError
from gridclip.io.json_table import JsonTable, is_frequency, is_text, is_whole_list

# LVIS v1 boxes come from polygons and overshoot their image by fractions of a pixel. Up to this
# many pixels are clipped silently; more is taken for an error.
OVERSHOOT = 2.0

# Rules that are broken in ways that `faults` can mend.
LOW_ID = "with an id below 1 (ids of LVIS and COCO start at 1)"
UNKNOWN_IN_LIST = "that name a category the file does not list"


def to_columns(file: Path, lists: CocoLists, shown: CocoLists | None = None) -> Annotations:
    """Turn the lists into columns if they keep every rule.

    Args:
        file: Where they were read.
        lists: What it says.
        shown: The same with other values, for the messages to show.

    Raises:
        FaultError: for the first rule that is broken, with all rows that break it.
        InputError: if a list is none, or is empty.
    """
    listed, images, annotations = lists.records(file, shown)
    categories = _read_categories(listed)
    category_ids = np.array([category.id for category in categories])
    image_ids = _read_ids(images)
    sizes = _read_sizes(images)
    paths = np.array(_read_paths(images))
    negative = _read_rows(images, "neg_category_ids", category_ids)
    not_exhaustive = _read_rows(images, "not_exhaustive_category_ids", category_ids)
    boxes, labels = _read_boxes(annotations, category_ids, image_ids, sizes)
    return Annotations(
        file, categories, image_ids, paths, sizes, boxes, labels, negative, not_exhaustive
    )


def _read_categories(listed: JsonTable) -> tuple[Category, ...]:
    ids = _read_ids(listed)
    listed.refuse(
        ids < 1,
        "id",
        LOW_ID,
        fix="add 1 to every category id: in categories, annotations and the lists of the images",
    )
    names = listed.column("name", is_text, "a name")
    listed.refuse_repeats("name", names)
    frequencies = listed.column("frequency", is_frequency, "r, c or f", default=None)
    if any(frequencies):
        listed.refuse(
            [frequency is None for frequency in frequencies],
            "frequency",
            "without a frequency, which others have",
            fix="give every category its frequency (r, c or f), or none",
        )
    categories = [
        Category(number, name, frequency, _synonyms(record), *_counts(record))
        for number, name, frequency, record in zip(
            ids.tolist(), names, frequencies, listed.rows, strict=True
        )
    ]
    return tuple(sorted(categories, key=lambda category: category.id))


def _synonyms(record: dict[str, Any]) -> tuple[str, ...]:
    """Read what LVIS adds; COCO has none, and nothing depends on it, so it may be anything."""
    synonyms = record.get("synonyms")
    return tuple(filter(is_text, synonyms)) if isinstance(synonyms, list) else ()


def _counts(record: dict[str, Any]) -> tuple[int | None, int | None]:
    images, instances = record.get("image_count"), record.get("instance_count")
    return images if type(images) is int else None, instances if type(instances) is int else None


def _read_ids(records: JsonTable) -> Int64[np.ndarray, "R"]:
    if not len(records):
        fix = f"list the {records.name}"
        raise InputError("the list is empty", fix=fix, file=records.file, field=records.name)
    ids = records.integers("id")
    records.refuse_repeats("id", ids)
    return ids


def _read_sizes(images: JsonTable) -> Int64[np.ndarray, "I 2"]:
    sides = {key: images.integers(key) for key in ("height", "width")}
    for key, side in sides.items():
        images.refuse(side < 1, key, f"with no {key}", fix="write the size of the image in pixels")
    return np.stack([*sides.values()], axis=1)


def _read_paths(images: JsonTable) -> list[str]:
    sort = "a path relative to the folder of the images"
    names = images.column("file_name", lambda value: value is None or is_text(value), sort, None)
    # An empty coco_url is common in own data, and harmless beside a file_name.
    urls = images.column(
        "coco_url", lambda value: value in (None, "") or is_text(value), "a URL", None
    )
    paths = [image_path(*pair) for pair in zip(names, urls, strict=True)]
    images.refuse(
        [not path for path in paths],
        "file_name",
        "with neither file_name nor coco_url",
        fix=f"give each a file_name: {sort}",
    )
    return paths


def image_path(file_name: str | None, coco_url: str | None) -> str:
    """Give `file_name`; LVIS v1 has none, and the end of `coco_url` says it: train2017/9.jpg."""
    return file_name or "/".join((coco_url or "").split("/")[-2:])


def _read_boxes(
    records: JsonTable,
    category_ids: Int64[np.ndarray, "C"],
    image_ids: Int64[np.ndarray, "I"],
    sizes: Int64[np.ndarray, "I 2"],
) -> tuple[Ragged, Ragged]:
    records.refuse_repeats("id", records.integers("id"))
    images = _rows_of(records.integers("image_id"), image_ids)
    records.refuse(
        images < 0,
        "image_id",
        "of an image that the file does not list",
        fix="list the image, or remove the annotations",
    )
    labels = _rows_of(records.integers("category_id"), category_ids)
    records.refuse(
        labels < 0,
        "category_id",
        f"of a category that the file does not list (its ids: {_span(category_ids)})",
        fix="list the category, or mend the id (ids from 0 need 1 added)",
    )
    crowd = records.column(
        "iscrowd", lambda value: value in (0, 1), "0 or 1 (a region of many objects)", 0
    )
    single = ~np.array(crowd, dtype=bool)
    corners = _read_corners(records, sizes[images], single)
    order = np.argsort(images, kind="stable")
    offsets = np.searchsorted(images[order], np.arange(len(image_ids) + 1))
    kept = single[order]
    return (
        Ragged(corners[order], offsets).keep(kept),
        Ragged(labels[order], offsets).keep(kept),
    )


def _read_corners(
    records: JsonTable, sizes: Int64[np.ndarray, "T 2"], checked: Bool[np.ndarray, "T"]
) -> Float32[np.ndarray, "T 4"]:
    """Turn xywh into xyxy inside the image; what is not checked need not be a good box."""
    boxes = records.boxes()
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = sizes[:, [1, 0, 1, 0]]
    remove = "mend or remove these annotations"
    records.refuse(
        checked & (boxes[:, 2:] <= 0).any(1), "bbox", "with a box of no size", fix=remove
    )
    outside = np.maximum(-corners, corners - limits).max(1, initial=0.0) > OVERSHOOT
    records.refuse(
        checked & outside,
        "bbox",
        f"with a box that leaves its image by more than {OVERSHOOT:g} pixels",
        fix="boxes are x, y, width, height in pixels of the image: clip them, or " + remove,
        note=lambda row: f" in {sizes[row, 1]} x {sizes[row, 0]}",
    )
    clipped = corners.clip(0, limits).astype(np.float32)
    empty = (clipped[:, 2:] <= clipped[:, :2]).any(1)
    records.refuse(checked & empty, "bbox", "with a box of no size inside its image", fix=remove)
    return clipped


def _read_rows(images: JsonTable, key: str, category_ids: Int64[np.ndarray, "C"]) -> Ragged:
    """Read a list of category ids for each image; COCO form has none."""
    lists = images.column(key, is_whole_list, "a list of category ids", default=[])
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    rows = Ragged(_rows_of(_flat(lists), category_ids), offsets)
    unknown = (rows.keep(rows.values < 0)).offsets
    images.refuse(
        np.diff(unknown) > 0,
        key,
        f"{UNKNOWN_IN_LIST} (its ids: {_span(category_ids)})",
        fix="list the category, or take the id out (ids from 0 need 1 added)",
    )
    return rows


def _flat(lists: Sequence[Sequence[int]]) -> Int64[np.ndarray, "V"]:
    return np.array([value for values in lists for value in values], dtype=np.int64)


def _rows_of(ids: Int64[np.ndarray, "V"], known: Int64[np.ndarray, "R"]) -> Int64[np.ndarray, "V"]:
    """Find where each id stands among the known, distinct ones; -1 for a stranger."""
    order = np.argsort(known)
    places = np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)
    rows = order[places]
    return np.where(known[rows] == ids, rows, -1)


def _span(ids: Int64[np.ndarray, "C"]) -> str:
    return f"{len(ids)} from {ids[0]} to {ids[-1]}"
