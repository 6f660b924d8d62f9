"""Reads YOLO folders: data.yaml, and a text file beside each image.

A line is `class cx cy width height`, all but the class as shares of the image; of a polygon
(`class x1 y1 x2 y2 x3 y3 …`, segments and turned boxes) the box around it is taken. The form is
that of Ultralytics' documentation, with what exporters make of it: Roboflow's `../train/images`,
`valid` for `val`, names as a list or by number, `classes.txt` or `obj.names` in place of the yaml.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

from gridclip.data.forms.scenes import (
    Findings,
    NamedBox,
    Scene,
    Scenes,
    corners_box,
    kept_boxes,
    numbered,
    require_names,
    size_of,
)
from gridclip.data.forms.splits import (
    Split,
    files_under,
    refuse_split,
    relative,
    require_choice,
    split_folders,
    split_of,
)
from gridclip.data.images.decode import is_image
from gridclip.io.errors import InputError
from gridclip.io.text import ending, read_lines
from gridclip.io.yaml_text import read_yaml_texts

_NAME_LISTS = ("classes.txt", "obj.names", "classes.names")
_FIX = "give a data.yaml with `names`, or a classes.txt with a name a line"
_LINE = "write class cx cy width height, or class and the corners of a polygon"


class _Setup(NamedTuple):
    """What data.yaml says."""

    file: Path
    base: Path  # what its paths are relative to
    names: dict[int, str]  # by class
    parts: dict[Split, list[str]]  # folders or lists of images, as they are written


def setup_file(source: Path) -> Path | None:
    """Returns what lists the names of a YOLO folder; None if it is none."""
    if source.is_file():
        return source if ending(source) in (".yaml", ".yml", ".names") else None
    if not source.is_dir():
        return None
    named = [source / "data.yaml", source / "dataset.yaml"]
    others = sorted(file for file in source.iterdir() if ending(file) in (".yaml", ".yml"))
    lists = [source / name for name in _NAME_LISTS]
    for file in (*named, *others):
        if file.is_file() and isinstance(_yaml(file).get("names"), list | dict):
            return file
    return next((file for file in lists if file.is_file()), None)


def read_yolo(source: Path, split: Split | None, images: Path | None, findings: Findings) -> Scenes:
    """Reads one part of a YOLO folder, or a folder without parts.

    Args:
        source: The folder, or its yaml. Labels are looked for beside the images, in `labels` where
            the images lie in `images`.
        split: Which part; None for a folder without any.
        images: Where the images are, if they are not in the folder; labels are then searched in
            `source` under the same relative paths.
        findings: Takes up lines at fault, and what is read otherwise than it stands.

    Raises:
        InputError: if there are no names, no such part, no images, or no label at all.
    """
    file = setup_file(source)
    if file is None:
        raise InputError("has no names of classes", fix=_FIX, file=source)
    setup = _read_setup(file)
    folder = images or setup.base
    listed = files_under(images) if images else _images_of(setup, split)
    files = {file: None for file in listed}
    if not files:
        fix = "give .jpg, .png or other images, or their folder: --images"
        raise InputError("there is no image", fix=fix, file=folder)
    paths = [relative(file, folder) for file in files]
    outside = [file for file, path in zip(files, paths, strict=True) if path is None]
    if outside:
        problem = f"{len(outside)} images lie outside {folder}: {outside[0]}"
        fix = "set `path` in it to the folder that holds them all"
        raise InputError(problem, fix=fix, file=setup.file, field="path")
    own = source if images else None
    labels_of = _find_labels([*files], own, folder, findings, parted=split is not None)
    if not any(labels_of.values()):
        fix = "put them into a folder `labels` beside `images`, a/b.txt for a/b.jpg"
        raise InputError(f"none of the {len(files)} images has a label", fix=fix, file=source)
    scenes = [
        scene
        for image, path in zip(files, paths, strict=True)
        if (scene := _read_scene(image, str(path), labels_of[image], setup, findings))
    ]
    return Scenes(setup.file, folder, tuple(setup.names.values()), tuple(scenes))


def _yaml(file: Path) -> dict[str, object]:
    found = read_yaml_texts(file, fix=_FIX)
    return found if isinstance(found, dict) else {}


def _read_setup(file: Path) -> _Setup:
    if ending(file) not in (".yaml", ".yml"):
        listed = require_names([line for _, line in numbered(read_lines(file))], file, "names")
        return _Setup(file, file.parent, dict(enumerate(listed)), {})
    given = _yaml(file)
    names_given, count = given.get("names"), str(given.get("nc", "")).strip()
    names = _names_by_class(names_given, file)
    if count and count != str(len(names)):
        problem = f"nc is {count}, but there are {len(names)} names"
        raise InputError(problem, fix="make them agree", file=file, field="nc")
    path = given.get("path")
    told = file.parent / path if isinstance(path, str) and path else file.parent
    base = told if told.is_dir() else file.parent  # often a path of another machine
    parts: dict[Split, list[str]] = {}
    for key, value in given.items():
        split = split_of(key) if value else None
        if split:
            parts[split] = [str(each) for each in (value if isinstance(value, list) else [value])]
    return _Setup(file, base, names, parts)


def _names_by_class(given: object, file: Path) -> dict[int, str]:
    """Returns the name of each class; a list counts from 0, keys say the class themselves."""
    if isinstance(given, list):
        return dict(enumerate(require_names(given, file, "names")))
    if not isinstance(given, dict):
        raise InputError("lists no names", fix=_FIX, file=file, field="names")
    keys = [str(key).strip() for key in given]
    bad = [key for key in keys if not key.isdecimal()]
    if bad:
        problem = f"{bad[0]!r} is no class, which is a number from 0"
        raise InputError(problem, fix="write 0: cat, 1: dog, …", file=file, field="names")
    names = require_names([*given.values()], file, "names")
    return dict(sorted(zip(map(int, keys), names, strict=True)))


def _images_of(setup: _Setup, split: Split | None) -> list[Path]:
    """Returns the images of a part, as data.yaml says or as folders are usually called."""
    usual = split_folders(setup.base) or split_folders(setup.base / "images")
    known = [*dict.fromkeys([*setup.parts, *usual])]
    if split is None:
        require_choice(setup.file, known)
        inner = setup.base / "images"
        return [*files_under(inner if inner.is_dir() else setup.base)]
    if split not in known:
        refuse_split(setup.file, split, known)
    places = {said: _placed(said, setup) for said in setup.parts.get(split, ())}
    if (split in usual and not all(places.values())) or not places:
        places = {split: usual[split]}
    found: list[Path] = []
    for said, place in places.items():
        if place is None:
            fix = f"give a folder, or a list of images, relative to {setup.base}"
            raise InputError(f"{said} does not exist", fix=fix, file=setup.file, field=split)
        found += files_under(place) if place.is_dir() else _listed(place, setup)
    return found


def _placed(said: str, setup: _Setup) -> Path | None:
    """Finds what a part's entry means; Roboflow writes ../train/images for a folder beside it."""
    plain = said.replace("\\", "/")
    trimmed = plain
    while trimmed.startswith("../"):
        trimmed = trimmed[3:]
    bases = (setup.base, setup.file.parent)
    tries = [base / each for each in (plain, trimmed) for base in bases]
    return next((Path(os.path.normpath(path)) for path in tries if path.exists()), None)


def _listed(file: Path, setup: _Setup) -> list[Path]:
    """Reads a list of images, a path a line; what does not exist is found out later."""
    lines = [line.replace("\\", "/") for _, line in numbered(read_lines(file))]
    strange = [line for line in lines if not is_image(line)]
    if strange:
        fix = "give a path of an image a line"
        raise InputError(f"{strange[0]!r} is no image", fix=fix, file=file)
    bases = (setup.base, file.parent)
    return [
        next((base / line for base in bases if (base / line).is_file()), setup.base / line)
        for line in lines
    ]


def _find_labels(
    images: list[Path], labels: Path | None, folder: Path, findings: Findings, *, parted: bool
) -> dict[Path, Path | None]:
    """Returns the text file of each image; None for an image that shows nothing."""
    found: dict[Path, Path | None] = {}
    owners: dict[Path, Path] = {}
    homes = set[Path]()
    for image in images:
        label = _label_path(image, labels, folder)
        homes.add(labels or _home(label, image, folder, parted=parted))
        found[image] = label if label.is_file() else None
        if found[image] and owners.setdefault(label, image) != image:
            both = f"{image} and {owners[label].name}"
            findings.fault("images that share their labels", both, "rename one of each pair")
    every = (file for home in sorted(homes) for file in files_under(home, ".txt"))
    spare = [file for file in dict.fromkeys(every) if file not in owners and not _is_list(file)]
    found |= _by_name(spare, [image for image, known in found.items() if not known], findings)
    for bare in (image for image, known in found.items() if not known):
        findings.treat("images without a label file", str(bare), "taken to show nothing")
    return found


def _by_name(spare: list[Path], bare: list[Path], findings: Findings) -> dict[Path, Path]:
    """Gives labels that lie elsewhere to the only image of their name that has none.

    Tools write them so that flatten folders.
    """
    found: dict[Path, Path] = {}
    mates: dict[str, list[Path]] = {}
    for image in bare:
        mates.setdefault(image.stem, []).append(image)
    for file in spare:
        if len(mates.get(file.stem, ())) == 1:
            found[mates.pop(file.stem)[0]] = file
            how = "taken for those of the only image of their name"
            findings.treat("labels that lie elsewhere than their image", str(file), how)
        else:
            findings.fault("labels without an image", str(file), "add the images, or remove them")
    return found


def _is_list(file: Path) -> bool:
    """Returns whether a text file is about the data set, and not about one image."""
    return file.name in _NAME_LISTS or "readme" in file.name.lower() or bool(split_of(file.name))


def _label_path(image: Path, labels: Path | None, folder: Path) -> Path:
    if labels is not None:
        return (labels / image.relative_to(folder)).with_suffix(".txt")
    mirrored = _mirrored(image, folder)
    beside = image.with_suffix(".txt")
    return mirrored if mirrored.is_file() or not beside.is_file() else beside


def _mirrored(image: Path, folder: Path) -> Path:
    """Returns where the label of an image lies if the last `images` of its path is `labels`."""
    parts = [*image.relative_to(folder).parts]
    for at in range(len(parts) - 2, -1, -1):
        if parts[at].lower() == "images":
            parts[at] = "labels"
            break
    return folder.joinpath(*parts).with_suffix(".txt")


def _home(label: Path, image: Path, folder: Path, *, parted: bool) -> Path:
    """Returns the folder in which labels without an image would be wrong.

    It is `labels`, or `labels/train` where that holds the labels of all parts; the images' own
    folder where both share one.
    """
    parts = label.relative_to(folder).parts[:-1]
    if "labels" not in parts or label.parent == image.parent:
        return label.parent
    at = len(parts) - 1 - parts[::-1].index("labels")
    return folder.joinpath(*parts[: at + 2 if parted and at == 0 else at + 1])


def _read_scene(
    image: Path, path: str, labels: Path | None, setup: _Setup, findings: Findings
) -> Scene | None:
    size = size_of(image, findings)
    if size is None:
        return None
    boxes: list[tuple[str, NamedBox]] = []
    for number, line in numbered(read_lines(labels)) if labels else ():
        place = f"{labels} line {number}"
        box = _read_line(line, size, setup.names, findings, place)
        if box is not None:
            boxes.append((f"{place}: {line[:60]}", box))
    return Scene(path, *size, kept_boxes(boxes, *size, findings))


def _read_line(
    line: str, size: tuple[int, int], names: dict[int, str], findings: Findings, place: str
) -> NamedBox | None:
    """Reads one object; a fault is recorded, and None returned."""
    try:
        first, *values = map(float, line.split())
    except ValueError:
        first, values = math.nan, []
    wrong = _broken(first, values, names)
    if wrong:
        findings.fault(wrong[0], f"{place}: {line[:60]}", wrong[1])
        return None
    height, width = size
    if len(values) > 4:
        findings.treat("polygons", place, "taken for the boxes around them")
        pairs = zip(values[::2], values[1::2], strict=True)
        box = corners_box((x * width, y * height) for x, y in pairs)
    else:
        x, y, wide, high = values
        box = ((x - wide / 2) * width, (y - high / 2) * height, wide * width, high * height)
    return NamedBox(names[int(first)], box)


def _broken(first: float, values: list[float], names: dict[int, str]) -> tuple[str, str] | None:
    """Returns the rule that a line breaks, and how to mend it; None if it breaks none."""
    if not values:
        return "lines that are no numbers", _LINE
    if len(values) == 5:
        return "lines of six numbers, as detections with a score have", _LINE
    if len(values) < 4 or len(values) % 2:
        return "lines of another length", _LINE
    if not math.isfinite(first) or first != int(first) or int(first) not in names:
        listed = f"0 to {max(names)}" if len(names) == max(names) + 1 else f"{[*names][:9]}"
        return "lines with a class that has no name", f"name it, or mend it: {listed}"
    if any(value > 1.5 for value in values):
        fix = "divide x and width by the image's width, y and height by its height"
        return "lines in pixels, not in shares of the image", fix
    return None
