"""Reads Pascal VOC folders: an XML file for each image.

Boxes of VOC count pixels from 1, and both corners are inside: x = xmin − 1 and
width = xmax − xmin + 1, as in VOC's development kit. A `difficult` object is left out of AP, as
there, and trained on.
"""

import math
from pathlib import Path
from typing import NamedTuple

from gridclip.data.forms.markup import Element, numbers_of, read_xml, text_of
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
    turned_box,
)
from gridclip.data.forms.splits import (
    SPLIT_NAMES,
    ImageIndex,
    Split,
    files_under,
    refuse_split,
    relative,
    require_choice,
    split_folders,
)
from gridclip.io.errors import InputError
from gridclip.io.text import read_lines

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
_NAMES = "labels.txt"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")


class _File(NamedTuple):
    """One XML file."""

    place: Path
    beside: str  # its folder, relative to that of all XML files
    root: Element


def is_voc(source: Path) -> bool:
    """Returns whether a folder is of this form: Annotations, or XML files about single images."""
    if not source.is_dir():
        return False
    if (source / "Annotations").is_dir():
        return True
    first = next(files_under(source, ".xml"), None)
    return first is not None and b"<annotation>" in first.read_bytes()[:2000]


def read_voc(source: Path, split: Split | None, images: Path | None, findings: Findings) -> Scenes:
    """Reads one part of a VOC folder, or a folder without parts.

    Args:
        source: With `Annotations` and `JPEGImages` (or `images`), whatever folders are in them, or
            with XML files beside their images.
        split: Part: a list in `ImageSets/Main`, or a folder of its name. None for all.
        images: Where the images are, if not there.
        findings: Takes up objects at fault, and what is read otherwise than it stands.

    Raises:
        InputError: if there is no such part, no annotation or no image.
    """
    home = source / "Annotations"
    inner = home.is_dir()
    home = home if inner else source
    every = _read_all(home, findings)
    if not every and not findings.faults:
        raise InputError("holds no annotation (.xml)", fix="give a VOC folder", file=source)
    if not every:
        return Scenes(source, source, (), ())
    names = _names(source, every)
    chosen = _chosen(source, home, split, every)
    found = (source / name for name in _IMAGE_FOLDERS if inner)
    folder = images or next((each for each in found if each.is_dir()), source)
    index = ImageIndex(folder)
    base = folder if images else source
    scenes: dict[str, Scene] = {}
    for each in chosen:
        scene = _read_scene(each, index, base, set(names), findings)
        if scene is not None and scene.path in scenes:
            place = f"{each.place} ({scene.path})"
            findings.fault("annotations of an image that has one", place, "remove one of them")
        elif scene is not None:
            scenes[scene.path] = scene
    if not scenes and not findings.faults:
        raise InputError("holds no image", fix="give a VOC folder", file=source)
    return Scenes(source, base, names, tuple(scenes[path] for path in sorted(scenes)))


def _read_all(home: Path, findings: Findings) -> list[_File]:
    every = []
    for file in files_under(home, ".xml"):
        beside = (relative(file, home) or "").rpartition("/")[0]
        try:
            root = read_xml(file)
        except InputError as error:
            findings.fault("files that are no XML", str(error).partition("\n")[0], "write it again")
            continue
        if root.tag == "annotation":
            every.append(_File(file, beside, root))
    return every


def _names(source: Path, every: list[_File]) -> tuple[str, ...]:
    """Returns the names of all parts, so that ids agree: those of labels.txt, or else by letter."""
    found = {text_of(each, "name") for file in every for each in file.root.iterfind("object")}
    listed = source / _NAMES
    if not listed.is_file():
        return require_names(sorted(found - {""}), source, "object.name")
    names = require_names([line for _, line in numbered(read_lines(listed))], listed, "names")
    unknown = sorted(found - {*names} - {""})
    if unknown:
        problem = f"{', '.join(unknown[:3])}: not in it ({len(unknown)} names of objects)"
        raise InputError(problem, fix="add them, or remove the file", file=listed)
    return names


def _chosen(source: Path, home: Path, split: Split | None, every: list[_File]) -> list[_File]:
    """Returns the annotations of a part, by a list of ImageSets or by the folder they are in."""
    lists = source / "ImageSets" / "Main"
    listed = {
        part: lists / f"{name}.txt"
        for part, names in SPLIT_NAMES.items()
        for name in reversed(names)
        if (lists / f"{name}.txt").is_file()
    }
    folders = split_folders(home)
    known = [*dict.fromkeys([*listed, *folders])]
    if split is None:
        require_choice(source, known)
        return every
    if split in listed:
        ids = {line.split()[0] for _, line in numbered(read_lines(listed[split]))}
        by_id = {(relative(each.place, home) or "")[: -len(".xml")]: each for each in every}
        missing = sorted(ids - {*by_id})
        if missing:
            problem = f"{', '.join(missing[:3])}: no such annotation ({len(missing)} of {len(ids)})"
            raise InputError(problem, fix="add them, or mend the list", file=listed[split])
        return [by_id[each] for each in sorted(ids)]
    if split not in folders:
        refuse_split(source, split, known)
    return [each for each in every if each.place.is_relative_to(folders[split])]


def _read_scene(
    file: _File, index: ImageIndex, base: Path, names: set[str], findings: Findings
) -> Scene | None:
    said, place = text_of(file.root, "filename"), str(file.place)
    found = (index.find(said, file.beside) if said else None) or index.find(
        file.place.stem, file.beside
    )
    if found is None:
        fix = "put them there, or mend `filename`"
        findings.fault("annotations without an image", f"{place} says {said!r}", fix)
        return None
    image = index.folder / found
    sides = numbers_of(file.root, "size/height", "size/width")
    told = (int(sides[0]), int(sides[1])) if sides and all(map(math.isfinite, sides)) else None
    size = same_size(image, told, findings, place)
    if size is None:
        return None
    boxes = []
    for number, each in enumerate(file.root.iterfind("object"), 1):
        where = f"{place} object {number}"
        box = _read_object(each, where, findings)
        if box is not None:
            boxes.append((f"{where} {box.name} {[round(side, 2) for side in box.box]}", box))
    return Scene(relative(image, base) or found, *size, kept_boxes(boxes, *size, findings))


def _read_object(element: Element, place: str, findings: Findings) -> NamedBox | None:
    name = text_of(element, "name")
    if not name:
        findings.fault("objects without a name", place, "name them, or remove them")
        return None
    box = _box(element, place, findings)
    if box is None:
        findings.fault(
            "objects without a box", f"{place} {name}", "write xmin, ymin, xmax, ymax in bndbox"
        )
        return None
    difficult = text_of(element, "difficult") in ("1", "true", "True")
    if difficult:
        findings.treat("difficult objects", place, "trained on, and left out of AP")
    return NamedBox(name, box, ignored=difficult)


def _box(element: Element, place: str, findings: Findings) -> Xywh | None:
    corners = numbers_of(element.find("bndbox"), *_CORNERS)
    if corners is not None:
        x1, y1, x2, y2 = corners
        # What stands the wrong way round is of no size, whatever its corners share.
        return (x1 - 1, y1 - 1, x2 - x1 + 1 if x2 >= x1 else 0.0, y2 - y1 + 1 if y2 >= y1 else 0.0)
    turned = numbers_of(element.find("robndbox"), *_TURNED)
    if turned is not None:
        x, y, wide, high, angle = turned
        findings.treat("turned boxes", place, "taken for the upright boxes around them")
        return turned_box((x, y), (wide, high), angle)
    points = element.find("polygon")
    pairs = [numbers_of(points, f"x{n}", f"y{n}") for n in range(1, len(points or ()) // 2 + 1)]
    if points is not None and pairs and None not in pairs:
        findings.treat("polygons", place, "taken for the boxes around them")
        return corners_box((pair[0], pair[1]) for pair in pairs if pair)
    return None
