"""Named groups of categories, whose average precision is reported beside that of all.

LVIS knows three, by frequency. Any other split of the categories is a group with a name: the novel
names of open-vocabulary COCO, or the shapes that no box of the mini world shows. Groups may overlap
and need not hold every category. They stand in the annotation file, or in a file of their own.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gridclip.data.annotations.coco_json import group_rows, require_groups
from gridclip.data.annotations.table import Annotations
from gridclip.io.json_table import JsonTable, is_text, is_whole_list, read_json

UNKNOWN_IN_GROUP = "with a category that the file does not list"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LIST = "a list of category ids, or of category names"


def read_groups(
    groups: JsonTable, ids: Sequence[int], names: Sequence[str]
) -> dict[str, list[int]]:
    """Returns the rows of each group's categories, each row once.

    Args:
        groups: As `group_rows` makes them.
        ids: Of the categories, by row.
        names: Of the categories, by row.

    Raises:
        FaultError: if a name can't be part of a metric's name, or a group is no list, is empty, or
            names a category that is not there.
    """
    rows: dict[int | str, int] = {known: row for row, known in enumerate(ids)}
    rows |= {known: row for row, known in enumerate(names)}
    labels = groups.column("id", _is_name, "a name of letters, digits, - and _")
    listed = groups.column("categories", _is_list, _LIST)
    groups.refuse(
        [not each for each in listed],
        "categories",
        "without any category",
        fix="list its categories, or leave the group out",
    )
    groups.refuse(
        [any(each not in rows for each in group) for group in listed],
        "categories",
        UNKNOWN_IN_GROUP,
        fix="take it out of the group, or list the category",
        note=lambda row: f", unknown: {next(each for each in listed[row] if each not in rows)!r}",
    )
    return {
        name: [*dict.fromkeys(rows[each] for each in group)]
        for name, group in zip(labels, listed, strict=True)
    }


def add_groups(annotations: Annotations, file: Path) -> Annotations:
    """Adds groups from a file of their own; one that is named like another takes its place.

    Args:
        annotations: What the groups are of.
        file: A json object from the names of groups to lists of ids, or of names, of categories;
            or to objects with such a list under `ids` or `names`.

    Raises:
        InputError: if it is something else, or names other categories.
    """
    content: Any = read_json(file)
    require_groups(content, file)
    ids, names = zip(*((each.id, each.name) for each in annotations.categories), strict=True)
    groups = read_groups(JsonTable(file, "groups", group_rows(content)), ids, names)
    return annotations._replace(groups={**annotations.groups, **groups})


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_list(value: object) -> bool:
    return is_whole_list(value) or (isinstance(value, list) and all(map(is_text, value)))
