"""Reads CVAT for images 1.1: one XML file about all images."""

import math
from collections.abc import Callable
from pathlib import Path

from gridclip.data.forms.markup import Element, attributes_of, read_xml, text_of
from gridclip.data.forms.scenes import (
    Findings,
    NamedBox,
    Scene,
    Scenes,
    Xywh,
    corners_box,
    kept_boxes,
    require_names,
    same_size,
    turned_box,
)
from gridclip.data.forms.splits import ImageIndex, Split, refuse_split, require_choice, split_of
from gridclip.io.errors import InputError

_TURN = "taken for the upright boxes around them"


def cvat_file(source: Path) -> Path | None:
    """Returns the annotations of a CVAT export: a file, or annotations.xml of a folder."""
    file = source / "annotations.xml" if source.is_dir() else source
    if file.suffix.lower() != ".xml" or not file.is_file():
        return None
    return file if b"<annotations>" in file.read_bytes()[:2000] else None


def read_cvat(source: Path, split: Split | None, images: Path | None, findings: Findings) -> Scenes:
    """Reads an export of CVAT, or one subset of it.

    Args:
        source: annotations.xml, or its folder.
        split: The `subset` of images; None if they have none.
        images: Where the images are: else `images` beside the file, or the file's own folder.
        findings: Takes up shapes at fault, and what is read otherwise than it stands.

    Raises:
        InputError: if it is of video, or there is no such subset, or no image.
    """
    file = cvat_file(source)
    if file is None:
        raise InputError("is no export of CVAT", fix="give its annotations.xml", file=source)
    root = read_xml(file)
    if root.find("track") is not None:
        fix = "export the task as CVAT for images 1.1"
        raise InputError("holds tracks of a video", fix=fix, file=file, field="track")
    every = [*root.iterfind("image")]
    if not every:
        fix = "export the task as CVAT for images 1.1"
        raise InputError("lists no image", fix=fix, file=file, field="image")
    labels = [text_of(label, "name") for label in root.iterfind("meta/*/labels/label")]
    shown = [each.get("label") for image in every for each in image if each.tag in _SHAPES]
    names = [*labels, *sorted({str(name) for name in shown if name} - {*labels})]
    beside = file.parent / "images"
    index = ImageIndex(images or (beside if beside.is_dir() else file.parent))
    scenes = [
        scene
        for each in _subset(every, split, file)
        if (scene := _read_scene(each, index, findings)) is not None
    ]
    known = require_names(names, file, "labels")
    return Scenes(file, index.folder, known, tuple(scenes))


def _subset(images: list[Element], split: Split | None, file: Path) -> list[Element]:
    parts: dict[Split, list[Element]] = {}
    for each in images:
        part = split_of(each.get("subset", ""))
        if part:
            parts.setdefault(part, []).append(each)
    if split is None:
        if len(parts) > 1:
            require_choice(file, parts)
        return images
    if split not in parts:
        refuse_split(file, split, parts)
    return parts[split]


def _read_scene(image: Element, index: ImageIndex, findings: Findings) -> Scene | None:
    said = image.get("name", "")
    found = index.find(said)
    if found is None:
        fix = f"put them into {index.folder}, or give their folder: --images"
        findings.fault("images that do not exist", repr(said), fix)
        return None
    sides = attributes_of(image, "height", "width")
    told = (int(sides[0]), int(sides[1])) if sides and all(map(math.isfinite, sides)) else None
    size = same_size(index.folder / found, told, findings, f"image {said!r}")
    if size is None:
        return None
    boxes = []
    for number, each in enumerate(image, 1):
        place = f"image {said!r} {each.tag} {number}"
        box = _read_shape(each, place, findings)
        if box is not None:
            boxes.append((f"{place} {[round(side, 2) for side in box.box]}", box))
    return Scene(found, *size, kept_boxes(boxes, *size, findings))


def _read_shape(shape: Element, place: str, findings: Findings) -> NamedBox | None:
    read = _SHAPES.get(shape.tag)
    if read is None:
        findings.treat(f"shapes without an extent ({shape.tag})", place, "left out")
        return None
    box, name = read(shape), shape.get("label", "")
    if box is None or not name:
        fix = "mend or remove these shapes"
        findings.fault("shapes without a label, or with a value that is no number", place, fix)
        return None
    if shape.tag != "box":
        findings.treat(f"{shape.tag}s", place, "taken for the boxes around them")
    elif float(shape.get("rotation") or 0):
        findings.treat("turned boxes", place, _TURN)
    return NamedBox(name, box)


def _box(shape: Element) -> Xywh | None:
    corners, angle = attributes_of(shape, "xtl", "ytl", "xbr", "ybr"), _angle(shape)
    if corners is None or angle is None:
        return None
    x1, y1, x2, y2 = corners
    if not angle:
        return (x1, y1, x2 - x1, y2 - y1)
    return turned_box(((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1), angle)


def _ellipse(shape: Element) -> Xywh | None:
    found, angle = attributes_of(shape, "cx", "cy", "rx", "ry"), _angle(shape)
    if found is None or angle is None:
        return None
    x, y, rx, ry = found
    # The extent of a turned ellipse is less than that of the box around it, turned.
    wide = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
    high = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
    return (x - wide, y - high, 2 * wide, 2 * high)


def _angle(shape: Element) -> float | None:
    """Returns the rotation in radians; None if it is no finite number."""
    found = attributes_of(shape, "rotation") if shape.get("rotation") else (0.0,)
    return math.radians(found[0]) if found and math.isfinite(found[0]) else None


def _polygon(shape: Element) -> Xywh | None:
    try:
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        return corners_box((float(x), float(y)) for x, y in pairs)
    except ValueError:
        return None


def _mask(shape: Element) -> Xywh | None:
    found = attributes_of(shape, "left", "top", "width", "height")
    return (found[0], found[1], found[2], found[3]) if found else None


_SHAPES: dict[str, Callable[[Element], Xywh | None]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
    "mask": _mask,
}
