"""The three lists of a file of LVIS or COCO form, read fast: polygons are skipped unparsed."""

from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from gridclip.io.errors import InputError
from gridclip.io.json_table import JsonTable, parse_json, parse_strictly

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


class _Document(TypedDict, total=False):
    categories: Any
    images: list[_Image]
    annotations: list[_Annotation]


class CocoLists(NamedTuple):
    """The three lists of a file of LVIS or COCO form, each an object a row."""

    categories: Any
    images: Any
    annotations: Any

    def records(
        self, file: Path, shown: "CocoLists | None" = None
    ) -> tuple[JsonTable, JsonTable, JsonTable]:
        """Returns them for reading by column.

        Args:
            file: Where they were read.
            shown: The same with other values, for the messages to show.

        Raises:
            InputError: if one is no list of objects.
        """
        categories, images, annotations = (
            JsonTable(file, name, rows, getattr(shown, name, None))
            for name, rows in self._asdict().items()
        )
        return categories, images, annotations


def parse_lists(file: Path, content: bytes) -> CocoLists:
    """Parses what a file of LVIS or COCO form says; only the keys that are read.

    Raises:
        InputError: if it has another form.
    """
    try:
        document: object = parse_strictly(content, _Document)
    except (ValueError, RecursionError):
        document = parse_json(file, content)
    if not isinstance(document, dict):
        problem = f"holds a json {type(document).__name__}, not an object"
        fix = f"{_FORM} (a bare list is the form of detections)"
        raise InputError(problem, fix=fix, file=file)
    for key in CocoLists._fields:
        if key not in document:
            raise InputError("the key is absent", fix=_FORM, file=file, field=key)
    return CocoLists(*(document[key] for key in CocoLists._fields))
