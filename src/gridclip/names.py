"""Category names from a file."""

from pathlib import Path

import numpy as np

from gridclip.errors import InputError
from gridclip.records import Records, is_text, read_json
from gridclip.structures import Vocabulary


def read_names(file: Path) -> Vocabulary:
    """Read category names.

    Args:
        file: Text with a name on each line; or, as .json, an annotation file, or a list of names or
            of objects with a `name`. Objects with an `id` are taken in the order of their ids.

    Raises:
        InputError: if the file is absent or holds something else.
    """
    if file.suffix != ".json":
        return Vocabulary(line.strip() for line in _read_text(file).splitlines() if line.strip())
    rows = read_json(file)
    rows = rows.get("categories") if isinstance(rows, dict) else rows
    if isinstance(rows, list) and all(map(is_text, rows)):
        return Vocabulary(rows)
    categories = Records(file, "categories", rows)
    names = categories.column("name", is_text, "a name")
    if any("id" in row for row in categories.rows):
        names = [names[row] for row in np.argsort(categories.integers("id"), kind="stable")]
    return Vocabulary(names)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a text file with a name on each line, or a .json of LVIS or COCO form"
        raise InputError(f"cannot be read ({error})", fix=fix, file=file) from error
