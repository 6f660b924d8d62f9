"""LVIS- and COCO-form annotation files: read once, checked whole, kept as columns on disk."""

import logging
from pathlib import Path

from gridclip.data.annotations.cache import Columns, indexed
from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.repair import Faults, drop_faults
from gridclip.data.annotations.schema import to_columns
from gridclip.data.annotations.table import RAGGED
from gridclip.data.annotations.table import Annotations as Annotations
from gridclip.data.annotations.table import Category as Category
from gridclip.data.annotations.table import Ragged as Ragged
from gridclip.io.errors import InputError

logger = logging.getLogger(__name__)


def read_annotations(
    file: Path, faults: Faults = "refuse", folder: str | None = None
) -> Annotations:
    """Read a file of LVIS form (v0.5, v1) or COCO form.

    Crowd regions (`iscrowd`) are left out. Boxes that overshoot their image by at most OVERSHOOT
    pixels are clipped to it. What was read is kept under $GRIDCLIP_CACHE, by the file's content,
    and mapped by all processes that read it again.

    Args:
        file: The json file.
        faults: `refuse` stops at the first kind of fault; `drop` leaves out the images and boxes at
            fault, and logs how many. What is wrong with the file as a whole or with its categories
            is always refused.
        folder: Keep only the images that lie here: `val2017` gives LVIS minival of LVIS val.

    Raises:
        InputError: if anything in it cannot be trusted; the first kind of fault found is told with
            its count, up to three examples, and the fix.
    """
    columns = indexed(file, faults, lambda content: _make(file, content, faults))
    for line in columns.facts["dropped"]:
        logger.warning("%s: %s", file, line)
    annotations = _annotations(file, columns)
    return annotations if folder is None else annotations.in_folder(folder)


def _make(file: Path, content: bytes, faults: Faults) -> Columns:
    lists = parse_lists(file, content)
    if faults == "drop":
        lists, dropped = drop_faults(file, lists)
    else:
        dropped = []
    found = to_columns(file, lists)
    arrays = {name: getattr(found, name) for name in ("image_ids", "paths", "sizes")}
    for name in RAGGED:
        column: Ragged = getattr(found, name)
        arrays |= {name: column.values, f"{name}_offsets": column.offsets}
    return Columns(arrays, {"categories": found.categories, "dropped": dropped})


def _annotations(file: Path, columns: Columns) -> Annotations:
    arrays, facts = columns
    # As json gives them back: the tuple of synonyms has become a list.
    rows = (dict(zip(Category._fields, values, strict=True)) for values in facts["categories"])
    categories = (Category(**row | {"synonyms": tuple(row["synonyms"])}) for row in rows)
    return Annotations(
        file=file,
        categories=tuple(categories),
        image_ids=arrays["image_ids"],
        paths=arrays["paths"],
        sizes=arrays["sizes"],
        **{name: Ragged(arrays[name], arrays[f"{name}_offsets"]) for name in RAGGED},
    )


def read_folder(file: Path, faults: Faults = "refuse", folder: str | None = None) -> Annotations:
    """Read the annotation file of a data set, as `read_annotations`, or tell how to get one."""
    if not file.is_file():
        draw = f"gridclip data mini {file.parent}"
        other = "set data.root to the folder that holds it"
        raise InputError(
            "the annotation file does not exist",
            fix=f"draw it: {draw}"
            if file.parent.name == "mini"
            else f"{other}, or draw the mini data set: gridclip data mini data/mini",
            file=file,
        )
    return read_annotations(file, faults, folder)
