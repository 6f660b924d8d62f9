"""The command that marks names of an annotation file as held out."""

import json
from pathlib import Path
from typing import Any

from gridclip.data.annotations.coco_json import GROUPS, parse_lists
from gridclip.data.annotations.schema import NEGATIVE, NOT_EXHAUSTIVE, image_path, to_columns
from gridclip.data.annotations.table import Annotations
from gridclip.data.category_names import read_names
from gridclip.io.errors import InputError
from gridclip.io.files import require_writable, write_text
from gridclip.io.json_table import read_content
from gridclip.io.tables import make_console, say

BASE = (
    "person", "bicycle", "car", "motorcycle", "train", "truck", "boat", "bench", "bird", "horse",
    "sheep", "bear", "zebra", "giraffe", "backpack", "handbag", "suitcase", "frisbee", "skis",
    "kite", "surfboard", "bottle", "fork", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "pizza", "donut", "chair", "bed", "toilet", "tv", "laptop", "mouse",
    "remote", "microwave", "oven", "toaster", "refrigerator", "book", "clock", "vase", "toothbrush",
)  # fmt: skip

NOVEL = (
    "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard",
    "skateboard", "cup", "knife", "cake", "couch", "keyboard", "sink", "scissors",
)  # fmt: skip


def hold_out(
    file: Path,
    output: Path,
    *,
    base: Path | None = None,
    novel: Path | None = None,
    images: str = "",
) -> None:
    """Write a copy of an annotation file in which some names are held out: COCO 48/17 and the like.

    Held-out names get the frequency r and base names f, so that `rare_split: base_only` leaves
    exactly the held-out ones out of training, APr and AP50r are theirs, APf and AP50f those of the
    base names; the groups `base` and `novel` say the same. Names that are neither are left out with
    their boxes, and so is an image without any box left, as in the files that RegionCLIP is
    evaluated with. Other groups of the file keep those of their names that are left.

    Args:
        file: Json file of COCO or LVIS form, such as instances_val2017.json.
        output: Json file to write.
        base: Names to train on, a line each; by default the 48 of open-vocabulary COCO.
        novel: Names to hold out, a line each; by default the 17 of open-vocabulary COCO.
        images: Folder to write before each file name: COCO's lie in train2017 and val2017.
    """
    require_writable(output)
    marks = dict.fromkeys(BASE if base is None else read_names(base).names, "f")
    held = NOVEL if novel is None else read_names(novel).names
    both = [name for name in held if name in marks]
    if both:
        raise InputError(
            f"{', '.join(both)}: to train on and held out", field="novel", fix="choose one"
        )
    marks |= dict.fromkeys(held, "r")
    content = read_content(file)
    # Tells what is wrong with it.
    found = to_columns(file, parse_lists(file, content), "evaluation")
    whole: dict[str, Any] = json.loads(content)
    marked = _marked(whole, marks, file)
    marked[GROUPS] = _groups(found, marks)
    if images:
        for each in marked["images"]:
            path = image_path(each.get("file_name"), each.get("coco_url"))
            each["file_name"] = f"{images}/{path}"
    write_text(output, json.dumps(marked))
    count = {part: len(marked[part]) for part in ("categories", "images", "annotations")}
    held_out = sum(each["frequency"] == "r" for each in marked["categories"])
    say(make_console(), f"{output}: {count}, {held_out} names held out")


def _marked(whole: dict[str, Any], marks: dict[str, str], file: Path) -> dict[str, Any]:
    """The file's content, of the marked names alone.

    Raises:
        InputError: if it lacks one of them.
    """
    known = {each["name"] for each in whole["categories"]}
    missing = [name for name in marks if name not in known]
    if missing:
        raise InputError(
            f"has no category {', '.join(missing[:5])} ({len(missing)} of {len(marks)} lack)",
            file=file,
            field="categories",
            fix="give a file with these names, or other names (--base, --novel)",
        )
    categories = [
        {**each, "frequency": marks[each["name"]]}
        for each in whole["categories"]
        if each["name"] in marks
    ]
    ids = {each["id"] for each in categories}
    boxes = [each for each in whole["annotations"] if each["category_id"] in ids]
    shown = {each["image_id"] for each in boxes}
    images = [_of_names(each, ids) for each in whole["images"] if each["id"] in shown]
    return {**whole, "categories": categories, "images": images, "annotations": boxes}


def _of_names(image: dict[str, Any], ids: set[int]) -> dict[str, Any]:
    """An image whose lists of category ids name only these."""
    lists = (key for key in (NEGATIVE, NOT_EXHAUSTIVE) if image.get(key))
    return image | {key: [each for each in image[key] if each in ids] for key in lists}


def _groups(found: Annotations, marks: dict[str, str]) -> dict[str, list[int]]:
    """The ids of base and novel names, and what is left of the groups that the file had."""
    groups = {
        group: [found.categories[row] for row in rows] for group, rows in found.groups.items()
    }
    for group, mark in (("base", "f"), ("novel", "r")):
        groups[group] = [each for each in found.categories if marks.get(each.name) == mark]
    kept = {name: [each.id for each in own if each.name in marks] for name, own in groups.items()}
    return {name: ids for name, ids in kept.items() if ids}
