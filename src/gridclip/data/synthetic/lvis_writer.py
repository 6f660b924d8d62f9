"""Data sets that we draw: LVIS records, real JPEG files, and a folder that is whole or absent."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from gridclip.io.errors import InputError

Json = dict[str, Any]


class Counts(NamedTuple):
    """How often each category is annotated; by id, 0 where it never is."""

    images: Counter[int]
    instances: Counter[int]


def is_finished(folder: Path, record: str, recipe: Json, *, what: str) -> bool:
    """Tell whether a folder holds this very data set; a new or empty folder holds none.

    Args:
        folder: Where it is to be.
        record: Name of the file in it that says how it was made.
        recipe: What that file must say, as json gives it back.
        what: What such a folder is called, as in "a mini data set".

    Raises:
        InputError: if the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        made: object = json.loads((folder / record).read_text())
    except (OSError, ValueError):
        made = None
    if made != recipe:
        raise InputError(
            "holds something else" if made is None else f"holds {what} made with {made}",
            fix="name a new folder, or remove this one",
            file=folder,
            field="dir",
        )
    return True


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a hidden folder beside to write into; it takes the name only when all is written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        # An empty folder gives way; what another run finished meanwhile does not.
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_jpeg(pixels: UInt8[np.ndarray, "h w 3"], file: Path) -> None:
    """Write RGB with little loss: quality 90, colours at full resolution."""
    Image.fromarray(pixels).save(file, quality=90, subsampling=0)


def write_lines(rows: Sequence[Json], file: Path) -> None:
    """Write one json object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def image_record(
    image_id: int,
    file_name: str,
    size: tuple[int, int],
    *,
    absent: Sequence[int],
    not_exhaustive: Sequence[int],
) -> Json:
    """One of LVIS's `images`.

    Args:
        image_id: From 1.
        file_name: Relative to the folder of the images.
        size: Height and width in pixels.
        absent: Ids of categories verified not to be in the image.
        not_exhaustive: Ids of categories of which not every object has a box.
    """
    height, width = size
    return {
        "id": image_id,
        "width": width,
        "height": height,
        "file_name": file_name,
        "coco_url": "",
        "neg_category_ids": list(absent),
        "not_exhaustive_category_ids": list(not_exhaustive),
    }


def annotation_records(
    image_id: int,
    first_id: int,
    category_ids: Sequence[int],
    boxes: Int64[np.ndarray, "T 4"],
    areas: Int64[np.ndarray, "T"],
) -> list[Json]:
    """LVIS's `annotations` of one image; boxes come as xyxy and are written as xywh."""
    objects = zip(category_ids, boxes.tolist(), areas.tolist(), strict=True)
    return [
        {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": category,
            "bbox": [left, top, right - left, bottom - top],
            "area": area,
            "segmentation": [],
        }
        for row, (category, (left, top, right, bottom), area) in enumerate(objects)
    ]


def tally(annotations: Sequence[Json]) -> Counts:
    """Count images and boxes of each category."""
    pairs = {(annotation["category_id"], annotation["image_id"]) for annotation in annotations}
    return Counts(
        images=Counter(category for category, _ in pairs),
        instances=Counter(annotation["category_id"] for annotation in annotations),
    )


def deal(law: Float64[np.ndarray, "K"], number: int) -> Int64[np.ndarray, "number"]:
    """Rows in proportion to a law, each within one of its share, in the order of the rows.

    Args:
        law: Weight of each row, not negative, at least one above zero.
        number: How many rows to deal.
    """
    shares = np.cumsum(law)
    return np.searchsorted(shares / shares[-1], (np.arange(number) + 0.5) / number)


def deal_evenly(
    rng: np.random.Generator, rows: Int64[np.ndarray, "K"], number: int
) -> Int64[np.ndarray, "number"]:
    """Each row as often as the next, give or take one, and chance decides who gets one more."""
    return np.resize(rng.permutation(rows), number)
