"""The command that writes an annotation file in another form.

CVAT and Open Images are written by hotcoco. Its files of YOLO and VOC put all labels into one
folder by the image's bare name, so two images called 1.jpg would share theirs; these are written
here, in folders as the images lie.
"""

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from rich.console import Console
from rich.progress import track

from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.schema import to_columns
from gridclip.data.forms.scenes import Scene, Scenes, document_text, from_document
from gridclip.data.forms.side_file import SIDE_FILE, joined_sides, side_of
from gridclip.data.forms.source import Form
from gridclip.data.forms.splits import Split, split_folders
from gridclip.io.errors import InputError
from gridclip.io.files import refuse_paths_outside, require_writable, write_text
from gridclip.io.json_table import read_content
from gridclip.io.tables import make_console, say
from gridclip.io.text import read_text

_SETUP, _NAMES = "data.yaml", "labels.txt"
_SHARED = (_SETUP, _NAMES, SIDE_FILE)  # files about all parts of a data set
_HOMES: dict[Form, str] = {"yolo": "images/", "voc": "JPEGImages/", "cvat": "images/"}
_ONE_FILE = ("cvat", "open_images")  # of which each part is a folder of its own
_WITHOUT_CROWDS = ("yolo", "labelme")


def export_command(
    file: Path, output: Path, *, form: Form, split: Split | None = None, images: Path | None = None
) -> None:
    """Write an annotation file of COCO or LVIS form as YOLO, VOC, CVAT, Open Images or LabelMe.

    What the form cannot say, frequencies and verified absences, goes into side.json, which
    `gridclip data convert` and rows read again. Masks are left out.

    Args:
        file: Json file in COCO or LVIS form.
        output: Folder to write into: a new one, or one with other parts of the same data set.
        form: YOLO's numbers keep ten digits here; VOC has whole pixels, CVAT hundredths of one,
            Open Images six decimals of a share.
        split: Part of the folder that the file becomes: train, val or test.
        images: Folder that the file's paths are relative to: its images are copied, so that the
            folder can be trained on. Without it, labels alone are written.
    """
    if split is not None and form in _ONE_FILE:
        output, split = output / split, None
    require_writable(output / SIDE_FILE)
    document, scenes = _read(file, images)
    paths = [each.path for each in scenes.images]
    if split is not None:
        moved = (each._replace(path=f"{split}/{each.path}") for each in scenes.images)
        scenes = scenes._replace(images=tuple(moved))
    files = _WRITERS[form](scenes, document, output)
    # Without its images a folder is read with `convert --images`, relative to that folder.
    named_from = _HOMES.get(form, "") if images is not None and form != "cvat" else ""
    side = joined_sides(side_of(document, scenes, named_from), output / SIDE_FILE)
    files |= {SIDE_FILE: document_text(side)} if side else {}
    taken = [name for name in files if name not in _SHARED and (output / name).exists()]
    if taken:
        problem = f"holds {taken[0]} already ({len(taken)} files)"
        raise InputError(problem, fix="name a new folder", file=output, field="output")
    for name, text in files.items():
        write_text(output / name, text)
    if images is not None:
        home = output / _HOMES.get(form, "")
        pairs = zip(paths, scenes.images, strict=True)
        _copy([(images / path, home / each.path) for path, each in pairs])
    _tell(scenes, form, output)


def _read(file: Path, images: Path | None) -> tuple[dict[str, Any], Scenes]:
    """Reads a file that is sound, and finds its images.

    Raises:
        InputError: if it is not, or an image is missing.
    """
    content = read_content(file)
    to_columns(file, parse_lists(file, content), "validation")
    document: dict[str, Any] = json.loads(content)
    scenes = from_document(document, file, images or file.parent)
    paths = [each.path for each in scenes.images]
    refuse_paths_outside(scenes.folder, paths, source=file, field="images.file_name")
    missing = [path for path in paths if images and not (images / path).is_file()]
    if missing:
        problem = f"{len(missing)} of {len(paths)} images do not exist: {missing[0]!r}"
        raise InputError(problem, fix="give their folder", file=images, field="images")
    return document, scenes


def _copy(pairs: list[tuple[Path, Path]]) -> None:
    console = Console(stderr=True)
    for image, target in track(pairs, "copying images", console=console, transient=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, target)


def _tell(scenes: Scenes, form: Form, output: Path) -> None:
    console = make_console()
    boxes = [box for each in scenes.images for box in each.boxes]
    lost = sum(box.crowd for box in boxes) if form in _WITHOUT_CROWDS else 0
    counts = f"{len(scenes.images)} images, {len(boxes) - lost} boxes"
    say(console, f"wrote {output}: {form}, {counts}")
    if lost:
        say(console, f"left out: {lost} crowds, which {form} does not have")


def _write_yolo(scenes: Scenes, document: dict[str, Any], output: Path) -> dict[str, str]:
    rows = {name: row for row, name in enumerate(scenes.names)}
    files = dict[str, str]()
    for scene in scenes.images:
        lines = [
            f"{rows[box.name]} {' '.join(f'{value:.10g}' for value in _shares(box.box, scene))}\n"
            for box in scene.boxes
            if not box.crowd
        ]
        _add_file(files, f"labels/{_with_ending(scene.path, '.txt')}", "".join(lines))
    setup: dict[str, Any] = {"path": ".", "nc": len(scenes.names)}
    setup["names"] = dict(enumerate(scenes.names))
    known = output / _SETUP
    if known.is_file():
        before = yaml.safe_load(read_text(known))
        _require_same(before.get("names"), setup["names"], known)
        setup = before
    own = {scene.path.partition("/")[0] for scene in scenes.images}
    for split in {*split_folders(output / "images"), *own} & {"train", "val", "test"}:
        setup[split] = f"images/{split}"
    return files | {_SETUP: yaml.safe_dump(setup, sort_keys=False, allow_unicode=True)}


def _shares(box: tuple[float, ...], scene: Scene) -> tuple[float, ...]:
    """Returns centre and size of a box of pixels, as shares of its image."""
    x, y, wide, high = box
    wide, high, x, y = wide / scene.width, high / scene.height, x / scene.width, y / scene.height
    return (x + wide / 2, y + high / 2, wide, high)


def _write_voc(scenes: Scenes, document: dict[str, Any], output: Path) -> dict[str, str]:
    files = {_NAMES: _names_text(scenes, output)}
    lists: dict[str, list[str]] = {}
    for scene in scenes.images:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = Path(scene.path).name
        _add(root, "size", {"width": scene.width, "height": scene.height, "depth": 3})
        for box in scene.boxes:
            hard = int(box.crowd or box.ignored)
            element = _add(root, "object", {"name": box.name, "difficult": hard})
            x, y, wide, high = box.box
            left, top = round(x), round(y)
            right, low = max(round(x + wide), left + 1), max(round(y + high), top + 1)
            corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": low}
            _add(element, "bndbox", corners)
        ElementTree.indent(root)
        name = _with_ending(scene.path, "")
        lists.setdefault(name.partition("/")[0], []).append(name)
        _add_file(files, f"Annotations/{name}.xml", ElementTree.tostring(root, encoding="unicode"))
    for split in {*lists} & {"train", "val", "test"}:
        files[f"ImageSets/Main/{split}.txt"] = "".join(f"{name}\n" for name in lists[split])
    return files


def _add(parent: ElementTree.Element, tag: str, values: dict[str, Any]) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    for key, value in values.items():
        ElementTree.SubElement(element, key).text = str(value)
    return element


def _write_labelme(scenes: Scenes, document: dict[str, Any], output: Path) -> dict[str, str]:
    files = {_NAMES: _names_text(scenes, output)}
    for scene in scenes.images:
        shapes: list[dict[str, Any]] = [
            {
                "label": box.name,
                "points": [[x, y], [x + wide, y + high]],
                "shape_type": "rectangle",
                "group_id": None,
                "flags": {},
            }
            for box in scene.boxes
            if not box.crowd
            for x, y, wide, high in [box.box]
        ]
        page: dict[str, Any] = {"version": "5.0.0", "flags": {}, "shapes": shapes}
        page |= {"imagePath": Path(scene.path).name, "imageData": None}
        page |= {"imageHeight": scene.height, "imageWidth": scene.width}
        _add_file(files, _with_ending(scene.path, ".json"), json.dumps(page, indent=1))
    return files


def _write_cvat(scenes: Scenes, document: dict[str, Any], output: Path) -> dict[str, str]:
    return _by_hotcoco(scenes, document, "to_cvat", "annotations.xml")


def _write_open_images(scenes: Scenes, document: dict[str, Any], output: Path) -> dict[str, str]:
    files = _by_hotcoco(scenes, document, "to_oid", "boxes.csv")
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows((name, name) for name in scenes.names)
    return files | {"class-descriptions.csv": table.getvalue()}


def _by_hotcoco(scenes: Scenes, document: dict[str, Any], method: str, name: str) -> dict[str, str]:
    """Returns what hotcoco writes of boxes alone, images called by their paths.

    Raises:
        InputError: if the form knows images by their bare names, and two share one.
    """
    from hotcoco import COCO

    kept = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    images = [
        {"id": each["id"], "height": scene.height, "width": scene.width, "file_name": scene.path}
        for each, scene in zip(document["images"], scenes.images, strict=True)
    ]
    boxes = [
        {key: each[key] for key in kept if key in each} | {"is_group_of": bool(each.get("iscrowd"))}
        for each in document["annotations"]
    ]
    whole = COCO({"images": images, "annotations": boxes, "categories": document["categories"]})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        try:
            getattr(whole, method)(str(file))
        except ValueError as error:
            fix = "give the images different names"
            raise InputError(str(error), fix=fix, file=scenes.source) from error
        return {name: read_text(file)}


def _with_ending(path: str, ending: str) -> str:
    return Path(path).with_suffix(ending).as_posix()


def _add_file(files: dict[str, str], name: str, text: str) -> None:
    """Adds a text file; images whose names differ in their endings alone would share it."""
    if name in files:
        fix = "rename one of the images"
        raise InputError(f"two images would share {name}", fix=fix, field="images.file_name")
    files[name] = text


def _names_text(scenes: Scenes, output: Path) -> str:
    text = "".join(f"{name}\n" for name in scenes.names)
    known = output / _NAMES
    if known.is_file():
        _require_same(read_text(known), text, known)
    return text


def _require_same(before: object, now: object, file: Path) -> None:
    """Refuses a folder whose other parts have other names."""
    if before != now:
        fix = "name a new folder, or give all parts the same categories"
        raise InputError("lists other names", fix=fix, file=file, field="output")


_WRITERS: dict[Form, Callable[[Scenes, dict[str, Any], Path], dict[str, str]]] = {
    "yolo": _write_yolo,
    "voc": _write_voc,
    "cvat": _write_cvat,
    "open_images": _write_open_images,
    "labelme": _write_labelme,
}
