"""LVIS- and COCO-form annotation files: read once, checked whole, kept as columns on disk."""

import logging
from pathlib import Path
from typing import Any

from gridclip.data.annotations.cache import Columns, indexed
from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.repair import Faults, drop_faults
from gridclip.data.annotations.schema import Rules, to_columns
from gridclip.data.annotations.table import LISTS, SCORED_LISTS, ScoredBoxes
from gridclip.data.annotations.table import Annotations as Annotations
from gridclip.data.annotations.table import Category as Category
from gridclip.data.annotations.table import Ragged as Ragged
from gridclip.io.errors import InputError

logger = logging.getLogger(__name__)


def read_annotations(
    file: Path,
    faults: Faults = "refuse",
    folder: str | None = None,
    rules: Rules = "training",
    *,
    masks: bool = False,
) -> Annotations:
    """Reads a file of LVIS form (v0.5, v1) or COCO form.

    For training, crowd regions (`iscrowd`) are left out, and boxes that overshoot their image by at
    most OVERSHOOT pixels are clipped to it. What was read is kept under $GRIDCLIP_CACHE, by the
    file's content, and mapped by all processes that read it again.

    Args:
        file: The json file.
        faults: `refuse` stops at the first kind of fault; `drop` leaves out the images and boxes
            that break the rules of training, and logs how many. What is wrong with the file as a
            whole or with its categories is always refused.
        folder: Keep only the images that lie here: `val2017` gives LVIS minival of LVIS val.
        rules: What the file is read for: `training`, `evaluation`, or both (`validation`).
        masks: Read the objects' masks too, polygons or codes; each object then needs one.

    Raises:
        InputError: if anything in it cannot be trusted; it reports the first kind of fault with its
            count, up to three examples, and the fix.
    """
    variant = f"{rules}-{faults}" + "-masks" * masks
    columns = indexed(file, variant, lambda content: _make(file, content, faults, rules, masks))
    for line in columns.facts["dropped"]:
        logger.warning("%s: %s", file, line)
    annotations = _annotations(file, columns)
    if annotations.scored and annotations.scored.without_area:
        logger.warning(*_about_areas(annotations.scored, file))
    return annotations if folder is None else annotations.in_folder(folder)


def _make(file: Path, content: bytes, faults: Faults, rules: Rules, masks: bool) -> Columns:
    lists = parse_lists(file, content, masks=masks)
    if faults == "drop":
        lists, dropped = drop_faults(file, lists, masks=masks)
    else:
        dropped = []
    found = to_columns(file, lists, rules, masks=masks)
    arrays = {name: getattr(found, name) for name in ("image_ids", "paths", "sizes")}
    ragged: dict[str, Ragged] = {name: getattr(found, name) for name in LISTS}
    if found.scored is not None:
        ragged |= {f"scored.{name}": getattr(found.scored, name) for name in SCORED_LISTS}
        if found.scored.masks is not None:
            ragged["scored.masks"] = found.scored.masks
    if found.masks is not None:
        ragged["masks"] = found.masks
    for name, column in ragged.items():
        arrays |= {name: column.values, f"{name}.offsets": column.offsets}
    facts = {
        "categories": found.categories,
        "groups": found.groups,
        "dropped": dropped,
        "exhaustive": None if found.scored is None else found.scored.exhaustive,
        "without_area": 0 if found.scored is None else found.scored.without_area,
    }
    return Columns(arrays, facts)


def _about_areas(scored: ScoredBoxes, file: Path) -> tuple[str, Path, int]:
    """Returns what to say of boxes whose area the file gives as 0."""
    outcome = (
        "the areas of the boxes themselves count instead"
        if scored.exhaustive
        else "AP leaves them out, as lvis does; to have them found, take `area` away there, or let "
        "`gridclip data check --fix` write the areas of the boxes"
    )
    return f"%s: %d annotations have the area 0: {outcome}", file, scored.without_area


def _annotations(file: Path, columns: Columns) -> Annotations:
    arrays, facts = columns

    def ragged(prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
        listed = (*names, "masks") if f"{prefix}masks" in arrays else names
        keys = {name: f"{prefix}{name}" for name in listed}
        return {name: Ragged(arrays[key], arrays[f"{key}.offsets"]) for name, key in keys.items()}

    exhaustive = facts["exhaustive"]
    scored = None
    if exhaustive is not None:
        scored = ScoredBoxes(
            **ragged("scored.", SCORED_LISTS),
            exhaustive=exhaustive,
            without_area=facts["without_area"],
        )
    # Json has turned the tuple of synonyms into a list.
    rows = (dict(zip(Category._fields, values, strict=True)) for values in facts["categories"])
    return Annotations(
        file=file,
        categories=tuple(Category(**row | {"synonyms": tuple(row["synonyms"])}) for row in rows),
        image_ids=arrays["image_ids"],
        paths=arrays["paths"],
        sizes=arrays["sizes"],
        **ragged("", LISTS),
        scored=scored,
        groups=facts["groups"],
    )


def read_folder(
    file: Path,
    faults: Faults = "refuse",
    folder: str | None = None,
    rules: Rules = "training",
    *,
    masks: bool = False,
) -> Annotations:
    """Reads the annotation file of a data set as `read_annotations` does.

    Raises:
        InputError: likewise; for an absent file, it says how to get one.
    """
    if not file.is_file():
        draw = f"gridclip data mini {file.parent}"
        other = "set data.root to the folder that holds it, or to a YOLO or VOC folder"
        raise InputError(
            "the annotation file does not exist",
            fix=f"draw it: {draw}"
            if file.parent.name == "mini"
            else f"{other}, or draw the mini data set: gridclip data mini data/mini",
            file=file,
        )
    return read_annotations(file, faults, folder, rules, masks=masks)
