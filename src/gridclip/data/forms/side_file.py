"""What LVIS form says and other forms cannot: frequencies, verified absences, groups; by name.

    {"frequency": {"cat": "f", "okapi": "r"},
     "negative": {"train/images/1.jpg": ["dog"]},
     "not_exhaustive": {"train/images/1.jpg": ["cup"]},
     "category_groups": {"animals": ["cat", "okapi"]}}

Every key may be absent. With `negative` or `not_exhaustive` a data set is of LVIS form: an image
that they do not list has nothing verified but its boxes. It may speak of images of all parts.
"""

from pathlib import Path
from typing import Any

from gridclip.data.annotations.coco_json import GROUPS, require_groups
from gridclip.data.annotations.schema import NEGATIVE, NOT_EXHAUSTIVE
from gridclip.data.forms.scenes import Scenes
from gridclip.io.errors import InputError
from gridclip.io.json_table import is_text, read_json

SIDE_FILE = "side.json"
"""Name under which one is looked for in the folder of a data set."""

_LISTS = {"negative": NEGATIVE, "not_exhaustive": NOT_EXHAUSTIVE}
_KEYS = ("frequency", *_LISTS, GROUPS)
_FIX = 'write {"frequency": {"cat": "f"}, "negative": {"train/1.jpg": ["dog"]}}; see docs/data.md'


def read_side_file(file: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Reads a side file.

    Args:
        file: The json file.
        names: Of the data set.

    Raises:
        InputError: if it has another form, speaks of other names, or gives a frequency to some
            names only.
    """

    def refuse(problem: str, key: str, fix: str = _FIX) -> InputError:
        return InputError(problem, fix=fix, file=file, field=key)

    found = _parsed(file)
    for key in (key for key in ("frequency", *_LISTS) if key in found):
        lists = [*found[key].values()] if key in _LISTS else [[*found[key]]]
        if not all(isinstance(each, list) and all(map(is_text, each)) for each in lists):
            raise refuse("is no list of names", key)
        unknown = sorted({name for each in lists for name in each} - {*names})
        if unknown:
            problem = f"names {', '.join(unknown[:3])}, which the data set has not ({len(unknown)})"
            raise refuse(problem, key, "mend the names")
    frequency = found.get("frequency", {})
    if any(value not in ("r", "c", "f") for value in frequency.values()):
        raise refuse("is other than r, c or f", "frequency")
    lacking = [name for name in names if name not in frequency]
    if frequency and lacking:
        problem = f"{', '.join(lacking[:3])}: no frequency ({len(lacking)} of {len(names)} names)"
        raise refuse(problem, "frequency", "give every name its frequency: r, c or f")
    return found


def _parsed(file: Path) -> dict[str, Any]:
    """Reads the object of objects that a side file is."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise InputError("is no json object", fix=_FIX, file=file)
    for key, value in found.items():
        if key not in _KEYS:
            raise InputError("is no key of a side file", fix=_FIX, file=file, field=key)
        if key == GROUPS:
            require_groups(value, file, GROUPS)
        elif not isinstance(value, dict):
            raise InputError("is no json object", fix=_FIX, file=file, field=key)
    return found


def add_side_file(document: dict[str, Any], side: dict[str, Any]) -> dict[str, Any]:
    """Returns a document of `to_document` with what a side file says of its names and images."""
    ids = {each["name"]: each["id"] for each in document["categories"]}
    frequency = side.get("frequency", {})
    categories = [
        each | ({"frequency": frequency[each["name"]]} if frequency else {})
        for each in document["categories"]
    ]
    images = document["images"]
    if any(key in side for key in _LISTS):
        images = [
            each
            | {
                key: sorted({ids[name] for name in said.get(each["file_name"], ())})
                if said
                else each.get(key, [])
                for key, said in ((_LISTS[name], side.get(name, {})) for name in _LISTS)
            }
            for each in images
        ]
    groups = {GROUPS: side[GROUPS]} if side.get(GROUPS) else {}
    return document | {"categories": categories, "images": images} | groups


def side_of(document: dict[str, Any], scenes: Scenes, home: str = "") -> dict[str, Any]:
    """Returns the side file of a document of COCO or LVIS form; empty if it needs none.

    Args:
        document: The file.
        scenes: The same, with images by the paths they will have.
        home: What goes before these paths.
    """
    frequency = {
        each["name"]: each["frequency"] for each in document["categories"] if each.get("frequency")
    }
    names = {each["id"]: each["name"] for each in document["categories"]}
    groups = {
        group: [names.get(each, each) for each in own]
        for group, own in document.get(GROUPS, {}).items()
        if isinstance(own, list)
    }
    lists = {
        "negative": {home + each.path: [*each.negative] for each in scenes.images},
        "not_exhaustive": {home + each.path: [*each.not_exhaustive] for each in scenes.images},
    }
    whole = {"frequency": frequency, GROUPS: groups} | (lists if scenes.federated else {})
    return {key: value for key, value in whole.items() if value}


def joined_sides(side: dict[str, Any], known: Path) -> dict[str, Any]:
    """Returns a side file together with that of other parts; frequencies and groups are the new."""
    before = _parsed(known) if known.is_file() else {}
    lists = {
        key: before.get(key, {}) | side.get(key, {})
        for key in _LISTS
        if key in before or key in side
    }
    return before | side | lists
