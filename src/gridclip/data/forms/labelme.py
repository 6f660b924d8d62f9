"""Reads LabelMe folders: a json file beside each image."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridclip.data.forms.scenes import (
    Findings,
    NamedBox,
    Scene,
    Scenes,
    Xywh,
    corners_box,
    kept_boxes,
    numbered,
    require_names,
    same_size,
)
from gridclip.data.forms.side_file import SIDE_FILE
from gridclip.data.forms.splits import (
    ImageIndex,
    Split,
    files_under,
    refuse_split,
    relative,
    require_choice,
    split_folders,
)
from gridclip.io.errors import InputError
from gridclip.io.json_table import read_content
from gridclip.io.text import read_lines

_AROUND = ("polygon", "rotation", "mask", "oriented_rectangle")
_NO_EXTENT = ("point", "points", "line", "linestrip")
_NAMES = "labels.txt"


def is_labelme(source: Path) -> bool:
    """Returns whether the first json under a folder is one of LabelMe."""
    first = next(_files(source), None) if source.is_dir() else None
    if first is None:
        return False
    found = _parse(first)
    return isinstance(found, dict) and isinstance(found.get("shapes"), list)


def read_labelme(
    source: Path, split: Split | None, images: Path | None, findings: Findings
) -> Scenes:
    """Reads the json files under a folder, or under the folder of one part.

    Args:
        source: The folder.
        split: A folder of its name in it; None for all.
        images: Where the images are, if not beside the json files.
        findings: Takes up shapes at fault, and what is read otherwise than it stands.

    Raises:
        InputError: if there is no such part, or no annotation.
    """
    files = [*_files(source)]
    if not files:
        raise InputError("holds no annotation (.json)", fix="give LabelMe's folder", file=source)
    parsed = {file: found for file in files if (found := _read(file, findings)) is not None}
    if not parsed:
        return Scenes(source, source, (), ())
    folders = split_folders(source)
    if split is None:
        require_choice(source, folders)
    elif split not in folders:
        refuse_split(source, split, folders)
    index, scenes = ImageIndex(images or source), list[Scene]()
    for file, found in parsed.items():
        if split is None or file.is_relative_to(folders[split]):
            scene = _read_scene(file, found, source, index, findings)
            scenes += [scene] if scene is not None else []
    return Scenes(source, index.folder, _names(source, parsed), tuple(scenes))


def _files(source: Path) -> Iterator[Path]:
    return (file for file in files_under(source, ".json") if file != source / SIDE_FILE)


def _parse(file: Path) -> object:
    try:
        return json.loads(read_content(file))
    except (ValueError, RecursionError):
        return None


def _read(file: Path, findings: Findings) -> dict[str, Any] | None:
    found = _parse(file)
    shapes = found.get("shapes") if isinstance(found, dict) else None
    if isinstance(found, dict) and isinstance(shapes, list) and all(map(_is_shape, shapes)):
        return found
    findings.fault("json files that LabelMe did not write", str(file), "take them out")
    return None


def _is_shape(shape: object) -> bool:
    return isinstance(shape, dict) and isinstance(shape.get("label"), str)


def _names(source: Path, parsed: dict[Path, dict[str, Any]]) -> tuple[str, ...]:
    """Returns the labels of all parts, so that ids agree: those of labels.txt, or else by letter.

    Of labels.txt, __ignore__ and _background_, which LabelMe's own scripts put first, are no names.
    """
    found = {each["label"].strip() for one in parsed.values() for each in one["shapes"]}
    listed = source / _NAMES
    if not listed.is_file():
        return require_names(sorted(found), source, "shapes.label")
    lines = [line for _, line in numbered(read_lines(listed))]
    kept = [line for line in lines if line not in ("__ignore__", "_background_")]
    unknown = sorted(found - {*kept})
    if unknown:
        problem = f"{', '.join(unknown[:3])}: not in it ({len(unknown)} labels)"
        raise InputError(problem, fix="add them, or remove the file", file=listed)
    return require_names(kept, listed, "labels")


def _read_scene(
    file: Path, found: dict[str, Any], source: Path, index: ImageIndex, findings: Findings
) -> Scene | None:
    said, beside = str(found.get("imagePath") or ""), str(relative(file.parent, source))
    path = (index.find(said, beside) if said else None) or index.find(file.stem, beside)
    if path is None:
        held = " (it holds the image itself: write it out)" if found.get("imageData") else ""
        place = f"{file} says {said!r}{held}"
        findings.fault("annotations without an image", place, "put it beside the json file")
        return None
    sides = found.get("imageHeight"), found.get("imageWidth")
    told = (sides[0], sides[1]) if type(sides[0]) is int and type(sides[1]) is int else None
    size = same_size(index.folder / path, told, findings, str(file))
    if size is None:
        return None
    boxes = []
    for number, shape in enumerate(found["shapes"], 1):
        place = f"{file} shape {number}"
        box = _read_shape(shape, place, findings)
        if box is not None:
            boxes.append((f"{place} {box.name} {[round(side, 2) for side in box.box]}", box))
    return Scene(path, *size, kept_boxes(boxes, *size, findings))


def _read_shape(shape: dict[str, Any], place: str, findings: Findings) -> NamedBox | None:
    kind, name = shape.get("shape_type") or "polygon", shape["label"].strip()
    if kind in _NO_EXTENT:
        findings.treat(f"shapes without an extent ({kind})", place, "left out")
        return None
    points = _points(shape.get("points"))
    box = None if points is None else _box(str(kind), points)
    if box is None or not name:
        fix = "mend or remove these shapes"
        findings.fault("shapes without a label, of unknown kind or with wrong points", place, fix)
        return None
    if kind != "rectangle":
        findings.treat(f"{kind}s", place, "taken for the upright boxes around them")
    return NamedBox(name, box)


def _points(given: object) -> list[tuple[float, float]] | None:
    try:
        points = [(float(x), float(y)) for x, y in given]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    return points if all(math.isfinite(side) for point in points for side in point) else None


def _box(kind: str, points: list[tuple[float, float]]) -> Xywh | None:
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        return (x - radius, y - radius, 2 * radius, 2 * radius)
    if kind == "rectangle" and len(points) in (2, 4):
        return corners_box(points)
    if kind == "mask" and len(points) == 2:
        box = corners_box(points)  # both corners are inside, as pixels
        return (box[0], box[1], box[2] + 1, box[3] + 1)
    if kind in _AROUND and len(points) > 2:
        return corners_box(points)
    return None
