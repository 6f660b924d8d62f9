"""Opens images without boxes: by class, with captions, of an annotation file, or in tar shards."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from gridclip.data.annotations.schema import image_path
from gridclip.data.images.decode import is_image, read_header
from gridclip.data.images.image_list import ImageList, ListedImage
from gridclip.data.images.shards import INDEX, is_shard, open_shards
from gridclip.io.errors import InputError
from gridclip.io.files import refuse_paths_outside
from gridclip.io.json_table import JsonTable, is_path, is_text, read_json
from gridclip.io.text import ending, read_json_lines, read_lines

CAPTIONS = ("captions.txt", "captions.csv", "captions.jsonl")
"""Names under which a captions file is looked for in a folder, in small or capital letters."""

_CSV_FORM = "give a line image,caption at its head, and one such line a caption"
_ROW = re.compile(r'\s*("(?:[^"]|"")*"\s*|[^,]*),(.*)')  # commas in a path need quotes
_QUOTED = re.compile(r'"((?:[^"]|"")*)"$')
_OPEN = re.compile(r'"(?:[^"]|"")*$')
_JSONL_FORM = 'give an object a line: {"image": "a.jpg", "caption": "..."} or "captions": [...]'
_IMAGE_KEYS = ("image", "file_name")
_KINDS = (
    "give a folder with a subfolder per class, a folder with captions.txt or captions.jsonl, a "
    "captions file, an annotation file (.json), or tar shards: their folder, or a-{000..127}.tar"
)


def open_images(source: Path, images: Path | None = None) -> ImageList:
    """Opens images without boxes in any form.

    Args:
        source: A folder with one subfolder per class; a captions file (.txt or .csv with the head
            image,caption, or .jsonl), or a folder with one; an annotation file of LVIS or COCO
            form, whose boxes are not looked at; tar shards in WebDataset's layout.
        images: What the paths in a captions or annotation file are relative to; by default the
            folder `images` beside the file, or else the file's own folder.

    Raises:
        InputError: if it is none of these, or something in it is missing or wrong.
    """
    if ending(source) == ".tar" or (source / INDEX).is_file():
        return open_shards(source)
    if source.is_dir():
        return _open_folder(source, images)
    if not source.is_file():
        raise InputError("does not exist", fix=_KINDS, file=source)
    if ending(source) not in (".txt", ".csv", ".jsonl", ".json"):
        raise InputError("is no source of images", fix=_KINDS, file=source)
    read = annotated if ending(source) == ".json" else captioned
    return read(source, _beside(source, images))


def _open_folder(folder: Path, images: Path | None) -> ImageList:
    captions = [file for file in folder.iterdir() if file.name.lower() in CAPTIONS]
    captions.sort(key=lambda file: CAPTIONS.index(file.name.lower()))
    if len(captions) > 1:
        names = " and ".join(file.name for file in captions)
        raise InputError(f"holds {names}", fix="name the one you mean", file=folder)
    if captions:
        return captioned(captions[0], _beside(captions[0], images))
    if any(map(is_shard, folder.iterdir())):
        return open_shards(folder)
    return class_folder(folder)


def _beside(file: Path, images: Path | None) -> Path:
    usual = file.parent / "images"
    return images or (usual if usual.is_dir() else file.parent)


class ImageFiles(ImageList):
    """Image files under one folder.

    Args:
        place: What listed them.
        folder: What their paths are relative to.
        listed: The images.

    Raises:
        InputError: if there is none, or a file is missing, or would be outside the folder.
    """

    def __init__(self, place: Path, folder: Path, listed: Sequence[ListedImage]) -> None:
        self.place, self.folder, self.listed = place, folder, listed
        paths = [image.path for image in listed]
        refuse_paths_outside(folder, paths, source=place, field="image")
        if not listed:
            endings = "give .jpg, .png or other images"
            raise InputError("there is no image", fix=endings, file=place)
        counts = [_byte_count(folder / image.path) for image in listed]
        missing = [image.path for image, count in zip(listed, counts, strict=True) if count < 0]
        if missing:
            examples = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise InputError(
                f"{len(missing)} of {len(listed)} images do not exist: {examples}",
                fix=f"put them into {folder}, or give the folder of the images",
                file=place,
                field="image",
            )
        self._byte_counts = np.array(counts, dtype=np.int64)

    @property
    def byte_counts(self) -> Int64[np.ndarray, "I"]:
        """Length of each file."""
        return self._byte_counts

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "I 2"]:
        """Height and width of each image, from its header."""
        files = [self.folder / image.path for image in self.listed]
        return np.array([read_header(file, file)[:2] for file in files], dtype=np.int64)

    def image(self, row: int) -> ListedImage:
        """Returns path, classes and captions of one image."""
        return self.listed[row]

    def read(self, row: int) -> bytes:
        """Reads one file."""
        file = self.place_of(row)
        try:
            return file.read_bytes()
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise InputError(problem, fix="put it back", file=file) from error

    def place_of(self, row: int) -> Path:
        """Returns the file."""
        return self.folder / self.listed[row].path


def class_folder(folder: Path) -> ImageFiles:
    """Lists all images under a folder; the subfolder they are in is their class.

    An image right in the folder has no class. The order is that of the paths.

    Raises:
        InputError: if there is no image.
    """
    paths = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if is_image(file.name) and file.is_file()
    )
    return ImageFiles(
        folder, folder, [ListedImage(path, tuple(path.split("/")[:-1][:1]), ()) for path in paths]
    )


def captioned(file: Path, folder: Path) -> ImageFiles:
    """Lists the images of a captions file, in the order in which it first names them.

    Args:
        file: Either .jsonl, or comma-separated with the head image,caption; an image may come in
            several lines.
        folder: What its paths are relative to.

    Raises:
        InputError: if it has another form, or names an image that is missing.
    """
    captions: dict[str, list[str]] = {}
    read = _lines_of_json if ending(file) == ".jsonl" else _lines_of_csv
    for path, caption in read(file):
        captions.setdefault(path, []).extend(caption)
    return ImageFiles(
        file, folder, [ListedImage(path, (), tuple(texts)) for path, texts in captions.items()]
    )


def annotated(file: Path, folder: Path) -> ImageFiles:
    """Lists the images of a file of LVIS or COCO form; boxes need not be in it, nor be right.

    Args:
        file: The json file; paths are its file_name entries, or the ends of its coco_url entries.
        folder: What the paths are relative to.

    Raises:
        InputError: if it lists no images, one twice, or one that is missing.
    """
    document = read_json(file)
    rows = document.get("images") if isinstance(document, dict) else document
    images = JsonTable(file, "images", rows)
    paths = [
        image_path(row.get("file_name"), str(row.get("coco_url") or "")) for row in images.rows
    ]
    images.refuse(
        [not is_path(path) for path in paths],
        "file_name",
        "with neither file_name nor coco_url",
        fix="give each a file_name: a path relative to the folder of the images",
    )
    images.refuse_repeats("file_name", paths)
    return ImageFiles(file, folder, [ListedImage(path, (), ()) for path in paths])


def _lines_of_csv(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields path and caption of each line: no caption, whatever is in it, goes on in the next.

    As commas need no quotes here, quotes are mostly speech, and stay; but a path or caption that is
    quoted as a whole, as tables are written, is what stands in the quotes.
    """
    head, *lines = read_lines(file) or [""]
    if [_unquoted(word.strip()) for word in head.split(",")] != ["image", "caption"]:
        problem = f"its head is {head!r}, not 'image,caption'"
        raise InputError(problem, fix=_CSV_FORM, file=file, field="line 1")
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        found = _ROW.match(line)
        path, caption = (_unquoted(word.strip()) for word in found.groups()) if found else ("", "")
        problem = "lacks image or caption" if not path or not caption else ""
        if _OPEN.match(caption):
            problem = "has a quote that is not closed on it"
        if problem:
            raise InputError(problem, fix=_CSV_FORM, file=file, field=f"line {number}")
        yield path, [caption]


def _unquoted(word: str) -> str:
    quoted = _QUOTED.match(word)
    return quoted[1].replace('""', '"').strip() if quoted else word


def _lines_of_json(file: Path) -> Iterator[tuple[str, list[str]]]:
    for number, row in read_json_lines(file):
        parsed = _parse(row) if isinstance(row, dict) else None
        if parsed is None:
            problem = "names no image, or no caption as text"
            where = f"line {number}"
            raise InputError(problem, fix=_JSONL_FORM, file=file, field=where)
        yield parsed


def _parse(row: dict[str, Any]) -> tuple[str, list[str]] | None:
    """Returns path and captions of one object, None if it has another form."""
    path = next((row[key] for key in _IMAGE_KEYS if key in row), None)
    captions = row.get("captions", [row.get("caption")])
    if not is_path(path) or not isinstance(captions, list) or not all(map(is_text, captions)):
        return None
    return str(path), captions


def _byte_count(file: Path) -> int:
    """Returns the length of a file, -1 if there is none."""
    try:
        found = os.stat(file)  # noqa: PTH116 - a third of the time of Path.stat, once per image
    except (OSError, ValueError):  # a name that no file can have
        return -1
    return found.st_size
