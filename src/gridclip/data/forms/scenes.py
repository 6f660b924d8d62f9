"""What every reader of a form returns, and what becomes of the faults that it meets.

A reader yields images with named boxes in pixels; the rules for a box are the same in every form,
and those of `annotations/schema.py`. A fault stops the reading, or leaves its box or image out
where the user says so; what is read otherwise than it stands is *treated*, and told with its count.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gridclip.data.annotations.repair import Faults
from gridclip.data.annotations.schema import (
    NEGATIVE,
    NOT_EXHAUSTIVE,
    OVERSHOOT,
    image_path,
    is_federated,
)
from gridclip.data.images.decode import read_header
from gridclip.io.errors import InputError
from gridclip.io.json_table import is_text

_EXAMPLES = 3

Xywh = tuple[float, float, float, float]  # x, y, width, height in pixels of the original image


class NamedBox(NamedTuple):
    """One object."""

    name: str
    box: Xywh
    crowd: bool = False  # many objects in one box
    ignored: bool = False  # left out of AP, as VOC's difficult ones


class Scene(NamedTuple):
    """One image with what is known of it."""

    path: str  # relative to the folder of the images
    height: int
    width: int
    boxes: tuple[NamedBox, ...]
    negative: tuple[str, ...] = ()  # names verified to be absent
    not_exhaustive: tuple[str, ...] = ()  # names of which some objects have no box


class Scenes(NamedTuple):
    """A data set, or one split of it."""

    source: Path  # what says the names, for messages
    folder: Path  # of the images
    names: tuple[str, ...]  # ids count from 1 in this order
    images: tuple[Scene, ...]
    federated: bool = False  # whether images list what was looked for


class Finding(NamedTuple):
    """One kind of thing that a reader met."""

    rule: str  # follows the count, as in "lines with a class that has no name"
    outcome: str  # what is done, or how to mend it
    places: list[str]

    def line(self) -> str:
        """Returns it with its count and examples."""
        examples = "; ".join(self.places[:_EXAMPLES])
        more = "; ..." if len(self.places) > _EXAMPLES else ""
        return f"{len(self.places)} {self.rule}: {examples}{more}"


class Findings:
    """What a reader met, by kind, in the order in which the kinds first came."""

    def __init__(self) -> None:
        self.faults: dict[str, Finding] = {}
        self.treated: dict[str, Finding] = {}

    def fault(self, rule: str, place: str, fix: str) -> None:
        """Records what is wrong; the caller leaves it out."""
        self.faults.setdefault(rule, Finding(rule, fix, [])).places.append(place)

    def treat(self, rule: str, place: str, outcome: str) -> None:
        """Records what is read otherwise than it stands."""
        self.treated.setdefault(rule, Finding(rule, outcome, [])).places.append(place)

    def settle(self, source: Path, faults: Faults) -> list[str]:
        """Stops at faults, or tells what was left out.

        Returns:
            A line for each kind that was left out or treated.

        Raises:
            InputError: under `refuse`, for the first kind of fault; it counts the others.
        """
        found = [*self.faults.values()]
        if found and faults == "refuse":
            others = "".join(f"\n  also: {each.line()}" for each in found[1:])
            fix = f"{found[0].outcome}; or leave them out: --faults drop (of a row: data.faults)"
            raise InputError(f"{found[0].line()}{others}", fix=fix, file=source)
        return [
            *(f"left out: {each.line()}" for each in found),
            *(f"{each.outcome}: {each.line()}" for each in self.treated.values()),
        ]


def kept_boxes(
    boxes: Iterable[tuple[str, NamedBox]], height: int, width: int, findings: Findings
) -> tuple[NamedBox, ...]:
    """Returns the boxes of one image that keep the rules, each once.

    Args:
        boxes: With the place of each, for messages.
        height: Of the image in pixels.
        width: Likewise.
        findings: Takes up the others.
    """
    kept: dict[NamedBox, None] = {}
    for place, box in boxes:
        rule = _broken_rule(box.box, height, width)
        if rule:
            findings.fault(rule, f"{place} in {width} x {height}", "mend or remove these boxes")
        elif box in kept:
            findings.treat("boxes that repeat another one of their image", place, "left out")
        else:
            kept[box] = None
    return tuple(kept)


def _broken_rule(box: Xywh, height: int, width: int) -> str:
    """Returns the rule of training that a box breaks; empty if none."""
    x, y, wide, high = box
    if not all(map(math.isfinite, box)):
        return "boxes with a value that is no finite number"
    if wide <= 0 or high <= 0:
        return "boxes of no size"
    if max(-x, -y, x + wide - width, y + high - height) > OVERSHOOT:
        return f"boxes that leave their image by more than {OVERSHOOT:g} pixels"
    if min(x + wide, width) <= max(x, 0) or min(y + high, height) <= max(y, 0):
        return "boxes of no size inside their image"
    return ""


def size_of(file: Path, findings: Findings, place: str = "") -> tuple[int, int] | None:
    """Returns height and width of an image as stored; None, and a fault, if it has none."""
    try:
        if not file.is_file():
            findings.fault("images that do not exist", place or str(file), "put them there")
            return None
        return read_header(file, file)[:2]
    except (InputError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        findings.fault("images that cannot be read", f"{file} ({cause})", "write them again")
        return None


def same_size(
    file: Path, said: tuple[int, int] | None, findings: Findings, place: str
) -> tuple[int, int] | None:
    """Returns height and width of an image if that is what its annotation says, or says nothing.

    Args:
        file: The image.
        said: Height and width; None or zeros where nothing is said.
        findings: Takes up a difference.
        place: Of the annotation.
    """
    found = size_of(file, findings, place)
    if found is None or not said or not all(said) or said == found:
        return found
    turned = ", turned by EXIF?" if said == found[::-1] else ""
    findings.fault(
        "images of another size than their annotation says",
        f"{place} says {said[1]} x {said[0]}, {file.name} is {found[1]} x {found[0]}{turned}",
        "give the image that was annotated: boxes must refer to the stored pixels",
    )
    return None


def require_names(names: Sequence[object], source: Path, field: str) -> tuple[str, ...]:
    """Returns names that can be a vocabulary.

    Raises:
        InputError: if there is none, one is no text, or one comes twice.
    """
    if not names:
        raise InputError("has no names", fix="list the categories", file=source, field=field)
    texts = [name.strip() if isinstance(name, str) else name for name in names]
    bad = [repr(name) for name in texts if not is_text(name)]
    if bad:
        problem = f"{', '.join(bad[:3])} is no name ({len(bad)} of {len(names)})"
        raise InputError(problem, fix="write each name as text", file=source, field=field)
    twice = sorted({str(name) for name in texts if texts.count(name) > 1})
    if twice:
        problem = f"{', '.join(twice[:3])}: named twice ({len(twice)} names)"
        fix = "merge these classes, or make each name different"
        raise InputError(problem, fix=fix, file=source, field=field)
    return tuple(map(str, texts))


def to_document(scenes: Scenes) -> dict[str, Any]:
    """Returns a data set in COCO form, or in LVIS form where images list what was looked for.

    Ids count from 1: of categories in the order of the names, of images and boxes in their own.
    """
    ids = {name: number for number, name in enumerate(scenes.names, 1)}
    images = [
        {"id": number, "file_name": each.path, "height": each.height, "width": each.width}
        | (_lists(each, ids) if scenes.federated else {})
        for number, each in enumerate(scenes.images, 1)
    ]
    boxes = [
        {"image_id": number, "category_id": ids[box.name], "bbox": [*box.box]}
        | {"area": box.box[2] * box.box[3]}
        | ({"iscrowd": 1} if box.crowd else {})
        | ({"ignore": 1} if box.ignored else {})
        for number, each in enumerate(scenes.images, 1)
        for box in each.boxes
    ]
    return {
        "images": images,
        "annotations": [{"id": number} | box for number, box in enumerate(boxes, 1)],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


def _lists(scene: Scene, ids: dict[str, int]) -> dict[str, list[int]]:
    pairs = ((NEGATIVE, scene.negative), (NOT_EXHAUSTIVE, scene.not_exhaustive))
    return {key: sorted({ids[name] for name in names}) for key, names in pairs}


def from_document(document: dict[str, Any], source: Path, folder: Path) -> Scenes:
    """Returns what a sound file of COCO or LVIS form says, but for masks and texts."""
    names = {each["id"]: each["name"] for each in document["categories"]}
    boxes: dict[int, list[NamedBox]] = {each["id"]: [] for each in document["images"]}
    for each in document["annotations"]:
        x, y, wide, high = map(float, each["bbox"])
        crowd, ignored = bool(each.get("iscrowd")), bool(each.get("ignore"))
        named = NamedBox(names[each["category_id"]], (x, y, wide, high), crowd, ignored)
        boxes[each["image_id"]].append(named)
    images = tuple(
        Scene(
            path=image_path(each.get("file_name"), each.get("coco_url")),
            height=each["height"],
            width=each["width"],
            boxes=tuple(boxes[each["id"]]),
            negative=tuple(names[known] for known in each.get(NEGATIVE) or ()),
            not_exhaustive=tuple(names[known] for known in each.get(NOT_EXHAUSTIVE) or ()),
        )
        for each in document["images"]
    )
    federated = any(map(is_federated, document["images"]))
    ordered = tuple(names[number] for number in sorted(names))
    return Scenes(source, folder, ordered, images, federated)


def document_text(document: dict[str, Any]) -> str:
    """Returns a document as json; floats keep all their digits."""
    return json.dumps(document, ensure_ascii=False)


def corners_box(corners: Iterable[tuple[float, float]]) -> Xywh:
    """Returns the upright box around points, in their unit; of no size for fewer than one."""
    points = [*corners]
    if not points:
        return (0.0, 0.0, 0.0, 0.0)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def turned_box(centre: tuple[float, float], size: tuple[float, float], angle: float) -> Xywh:
    """Returns the upright box around a turned one.

    Args:
        centre: x and y in pixels.
        size: Width and height in pixels, before turning.
        angle: In radians; either sense gives the same box.
    """
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    wide = size[0] * cosine + size[1] * sine
    high = size[0] * sine + size[1] * cosine
    return (centre[0] - wide / 2, centre[1] - high / 2, wide, high)


def numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank, with their numbers from 1."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line.strip()
