"""The lists of a file of LVIS or COCO form, read fast: polygons are left unparsed."""

from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec

from gridclip.io.errors import InputError
from gridclip.io.json_table import JsonTable, parse_json, parse_strictly

# Named groups of categories, {name: [ids or names of categories]}: ours, and never needed.
GROUPS = "category_groups"
_GROUP_FORM = 'write {"rare_shapes": [7, 9, 12]}: the name of each group, and its categories'

_FORM = "give an annotation file of LVIS or COCO form: images, annotations and categories"


class _Image(TypedDict, total=False):
    """What is read of an image; everything else is skipped unparsed."""

    id: Any
    height: Any
    width: Any
    file_name: Any
    coco_url: Any
    neg_category_ids: Any
    not_exhaustive_category_ids: Any
    caption: Any  # of grounding files


class _Annotation(TypedDict, total=False):
    """What is read of an annotation: not its polygons, nine tenths of the file."""

    id: Any
    image_id: Any
    category_id: Any
    bbox: Any
    area: Any
    iscrowd: Any
    ignore: Any
    tokens_positive: Any  # of grounding files


class _WithMask(_Annotation, total=False):
    segmentation: msgspec.Raw  # text, parsed one by one


class _Document(TypedDict, total=False):
    categories: Any
    images: list[_Image]
    annotations: list[_Annotation]
    category_groups: Any


class _WithMasks(_Document, total=False):
    annotations: list[_WithMask]  # type: ignore[misc]


class CocoLists(NamedTuple):
    """The lists of a file of LVIS or COCO form, each an object a row."""

    categories: Any
    images: Any
    annotations: Any
    category_groups: Any  # absent in most files; as rows, see `group_rows`

    def records(
        self, file: Path, shown: "CocoLists | None" = None
    ) -> tuple[JsonTable, JsonTable, JsonTable, JsonTable]:
        """Returns them for reading by column.

        Args:
            file: Where they were read.
            shown: The same with other values, for the messages to show.

        Raises:
            InputError: if one is no list of objects.
        """
        categories, images, annotations, groups = (
            JsonTable(file, name, rows, getattr(shown, name, None))
            for name, rows in self._asdict().items()
        )
        return categories, images, annotations, groups


def parse_lists(file: Path, content: bytes, *, masks: bool = False) -> CocoLists:
    """Parses what a file of LVIS or COCO form says; only the keys that are read.

    Args:
        file: For the messages.
        content: Its text.
        masks: Keep `segmentation`, as text or parsed.

    Raises:
        InputError: if it has another form.
    """
    try:
        document: object = parse_strictly(content, _WithMasks if masks else _Document)
    except (ValueError, RecursionError):
        document = parse_json(file, content, masks=masks)
    if not isinstance(document, dict):
        problem = f"holds a json {type(document).__name__}, not an object"
        fix = f"{_FORM} (a bare list is the form of detections)"
        raise InputError(problem, fix=fix, file=file)
    lists = CocoLists._fields[:3]
    for key in lists:
        if key not in document:
            raise InputError("the key is absent", fix=_FORM, file=file, field=key)
    groups = document.get(GROUPS, {})
    require_groups(groups, file, GROUPS)
    return CocoLists(**{key: document[key] for key in lists}, category_groups=group_rows(groups))


def require_groups(groups: object, file: Path, field: str | None = None) -> None:
    """Refuses what is no object of named groups, whatever is in it.

    Raises:
        InputError: naming file and field.
    """
    if not isinstance(groups, dict):
        problem = f"is a json {type(groups).__name__}, not an object"
        raise InputError(problem, fix=_GROUP_FORM, file=file, field=field)


def group_rows(groups: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns named groups as a list of objects, so that the rules of lists hold for them.

    Args:
        groups: As a file has them: names to lists of ids, or of names, of categories; or to an
            object with such a list under `ids` or `names`.

    Returns:
        An object a group: its name under `id`, its list under `categories`.
    """
    return [
        {"id": name, "categories": given.get("ids", given.get("names"))}
        if isinstance(given, dict)
        else {"id": name, "categories": given}
        for name, given in groups.items()
    ]


def rows_as_groups(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns groups in the form of the file."""
    return {row["id"]: row["categories"] for row in rows}
