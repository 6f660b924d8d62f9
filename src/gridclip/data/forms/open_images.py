"""Reads Open Images: a csv of boxes as shares of images, and csv files beside it."""

import math
from collections.abc import Iterator
from pathlib import Path

from gridclip.data.forms.scenes import (
    Findings,
    NamedBox,
    Scene,
    Scenes,
    Xywh,
    kept_boxes,
    require_names,
    size_of,
)
from gridclip.data.forms.splits import ImageIndex, Split, refuse_split
from gridclip.io.errors import InputError
from gridclip.io.text import ending, read_table

_BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_FIX = "give a csv with the columns ImageID, LabelName, XMin, XMax, YMin, YMax"
_Row = tuple[int, dict[str, str]]


def boxes_file(source: Path) -> Path | None:
    """Returns the csv of boxes: the source, or the only one of a folder."""
    files = [source] if source.is_file() else sorted(source.glob("*.csv"))
    found = [file for file in files if ending(file) == ".csv" and _has_boxes(file)]
    return found[0] if len(found) == 1 else None


def _has_boxes(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.readline(2000).decode(errors="replace")
    return {*_BOX_COLUMNS} <= {word.strip().strip('"').lstrip("\ufeff") for word in head.split(",")}


def read_open_images(
    source: Path, split: Split | None, images: Path | None, findings: Findings
) -> Scenes:
    """Reads a csv of boxes, with the names and verified labels of csv files beside it.

    `class-descriptions*.csv` gives the names of labels such as /m/01g317; without it the labels are
    the names. `*imagelabels*.csv` says which labels are verified in an image: with Confidence 0 it
    is a name to be absent there, and one that is present without a box is not exhaustive. Images
    are those that either file names.

    Args:
        source: The csv, or a folder with one.
        split: None, as Open Images has a csv a part.
        images: Folder of the images; else `images` beside the csv, or its own folder.
        findings: Takes up rows at fault, and what is read otherwise than it stands.

    Raises:
        InputError: if it has other columns, or a part is asked for.
    """
    file = boxes_file(source)
    if file is None:
        raise InputError("holds not one csv of boxes", fix=_FIX, file=source)
    if split is not None:
        refuse_split(source, split, ())
    beside = file.parent / "images"
    index = ImageIndex(images or (beside if beside.is_dir() else file.parent))
    rows: dict[str, list[_Row]] = {}
    for number, row in _rows(file, _BOX_COLUMNS):
        rows.setdefault(row["ImageID"], []).append((number, row))
    verified = _verified(file)
    labels = {row["LabelName"] for own in rows.values() for _, row in own}
    named = _named(labels | {label for own in verified.values() for label in own}, file)
    scenes = []
    for image in sorted({*rows, *verified}):
        path = index.find(image)
        size = _size(image, path, index, findings)
        if path is not None and size is not None:
            boxes = _boxes(rows.get(image, []), size, named, file, findings)
            scene = Scene(path, *size, kept_boxes(boxes, *size, findings))
            own = verified.get(image, {})
            scenes.append(_with_verified(scene, own, named) if verified else scene)
    names = require_names([*named.values()], file, "LabelName")
    return Scenes(file, index.folder, names, tuple(scenes), federated=bool(verified))


def _size(
    image: str, path: str | None, index: ImageIndex, findings: Findings
) -> tuple[int, int] | None:
    if path is not None:
        return size_of(index.folder / path, findings)
    fix = f"put them into {index.folder}, or give their folder: --images"
    findings.fault("images that do not exist", image, fix)
    return None


def _named(labels: set[str], file: Path) -> dict[str, str]:
    """Returns the name of each label, used or not, so that the ids of all parts agree."""
    titles = _titles(file)
    unknown = sorted(labels - {*titles}) if titles else []
    if unknown:
        problem = f"{', '.join(unknown[:3])}: no description ({len(unknown)} labels)"
        raise InputError(problem, fix="add them to class-descriptions", file=file)
    return titles or {label: label for label in sorted(labels)}


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[_Row]:
    table = read_table(file, _FIX)
    _, head = next(table, (1, [""]))
    keys = [key.strip() for key in head]
    lacking = [key for key in columns if key not in keys]
    if lacking:
        raise InputError(f"has no column {', '.join(lacking)}", fix=_FIX, file=file, field="line 1")
    for number, cells in table:
        if len(cells) != len(keys):
            problem = f"has {len(cells)} cells under {len(keys)} titles"
            raise InputError(problem, fix=_FIX, file=file, field=f"line {number}")
        yield number, dict(zip(keys, (cell.strip() for cell in cells), strict=True))


def _titles(file: Path) -> dict[str, str]:
    """Returns the name of each label, in the order of their file; empty if there is none."""
    found = sorted(file.parent.glob("class-descriptions*.csv"))
    if len(found) > 1:
        problem = f"holds {' and '.join(each.name for each in found[:3])}"
        raise InputError(problem, fix="leave the one that is meant", file=file.parent)
    if not found:
        return {}
    fix = "give a label and its name a line: /m/01g317,Person"
    rows = [(number, cells) for number, cells in read_table(found[0], fix)]
    bad = [number for number, cells in rows if len(cells) != 2]
    if bad:
        raise InputError("is no pair", fix=fix, file=found[0], field=f"line {bad[0]}")
    return {cells[0].strip(): cells[1].strip() for _, cells in rows if cells[0] != "LabelName"}


def _verified(file: Path) -> dict[str, dict[str, bool]]:
    """Returns, of each image, which labels are verified to be present (True) or absent."""
    found: dict[str, dict[str, bool]] = {}
    for each in sorted(file.parent.glob("*imagelabels*.csv")):
        for number, row in _rows(each, ("ImageID", "LabelName", "Confidence")):
            if row["Confidence"] not in ("0", "1", "0.0", "1.0"):
                fix = "give labels that a person verified, of Confidence 0 or 1"
                problem = f"Confidence is {row['Confidence']!r}"
                raise InputError(problem, fix=fix, file=each, field=f"line {number}")
            present = row["Confidence"].startswith("1")
            found.setdefault(row["ImageID"], {})[row["LabelName"]] = present
    return found


def _with_verified(scene: Scene, verified: dict[str, bool], named: dict[str, str]) -> Scene:
    boxed = {box.name for box in scene.boxes if not box.crowd}
    groups = {box.name for box in scene.boxes if box.crowd}
    present = {named[label] for label, there in verified.items() if there}
    absent = {named[label] for label, there in verified.items() if not there}
    return scene._replace(
        negative=tuple(sorted(absent - boxed - groups)),
        not_exhaustive=tuple(sorted(groups | (present - boxed))),
        # LVIS form, to which lists belong, has no crowds: the list says the same of a group.
        boxes=tuple(box for box in scene.boxes if not box.crowd),
    )


def _boxes(
    rows: list[_Row], size: tuple[int, int], named: dict[str, str], file: Path, findings: Findings
) -> list[tuple[str, NamedBox]]:
    boxes = []
    for number, row in rows:
        place = f"{file} line {number}"
        box = _box(row, size)
        if box is None:
            fix = "write them as shares of the image, from 0 to 1"
            findings.fault("boxes that are no shares of their image", place, fix)
            continue
        group = row.get("IsGroupOf") == "1"
        if group:
            findings.treat("boxes around groups", place, "taken for crowds")
        boxes.append((place, NamedBox(named[row["LabelName"]], box, crowd=group)))
    return boxes


def _box(row: dict[str, str], size: tuple[int, int]) -> Xywh | None:
    try:
        x1, x2, y1, y2 = (float(row[key]) for key in _BOX_COLUMNS[2:])
    except ValueError:
        return None
    if not all(math.isfinite(side) and -0.5 <= side <= 1.5 for side in (x1, x2, y1, y2)):
        return None
    height, width = size
    return (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)
