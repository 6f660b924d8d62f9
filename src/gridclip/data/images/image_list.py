"""Images that lie as files in a folder: by class, with captions, or named by an annotation file."""

import csv
import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image

from gridclip.io.column_store import encode_text
from gridclip.io.errors import InputError
from gridclip.io.json_table import JsonTable, is_text, read_json

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif")
"""Endings of image files, the one to take first where a sample of a shard has several."""

_SUFFIX_OF = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


class ListedImage(NamedTuple):
    """One image of a source, before it is read."""

    path: str  # within its source, distinct but for shards of other tools
    names: tuple[str, ...]  # classes that the source gives to the whole image
    captions: tuple[str, ...]


class ImageList(ABC):
    """Images in a fixed order, read by row; cheap to pickle, safe to share between processes.

    Attributes:
        place: The folder or file that it was opened from, for messages.
    """

    place: Path

    @property
    @abstractmethod
    def byte_counts(self) -> Int64[np.ndarray, "I"]:
        """Length of each image file."""

    @property
    @abstractmethod
    def sizes(self) -> Int64[np.ndarray, "I 2"]:
        """Height and width of each image in pixels; of plain files, each header is read once."""

    @abstractmethod
    def image(self, row: int) -> ListedImage:
        """Tell what is known of one image."""

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Read the bytes of one image file.

        Raises:
            InputError: if it is gone or cut short.
        """

    def __len__(self) -> int:
        return len(self.byte_counts)

    def fingerprint(self) -> str:
        """Name which images these are, and their order: it changes with any path or byte count.

        Content is not read, so a fingerprint of millions takes seconds. A folder and its packed
        shards have the same one.
        """
        counts = self.byte_counts.tolist()
        return fingerprint_of((self.image(row).path, count) for row, count in enumerate(counts))

    def place_of(self, row: int) -> Path:
        """Name one image to a person."""
        return self.place / self.image(row).path


def fingerprint_of(images: Iterable[tuple[str, int]]) -> str:
    """Name a sequence of images by their paths and byte counts."""
    found = hashlib.sha256()
    for path, count in images:
        found.update(encode_text(path) + b"\0%d\n" % count)
    return found.hexdigest()[:32]


class ImageHeader(NamedTuple):
    """What the first bytes of an image file tell."""

    height: int
    width: int
    suffix: str  # the ending that its format, whatever its name, should have


def read_header(opened: io.BufferedIOBase | Path, place: Path) -> ImageHeader:
    """Read size and format of an image, without its pixels.

    Raises:
        InputError: if it is no image.
    """
    try:
        with Image.open(opened) as image:  # type: ignore[arg-type]
            width, height = image.size
            format = str(image.format)
    except Exception as error:
        raise unreadable(place, error) from error
    return ImageHeader(height, width, _SUFFIX_OF.get(format, format.lower()))


def unreadable(place: Path, error: Exception) -> InputError:
    """Say that an image cannot be read."""
    return InputError(
        f"the image cannot be read ({type(error).__name__}: {error})",
        fix="fetch or write it again, or take it out of the source",
        file=place,
    )


def is_image(name: str) -> bool:
    """Tell an image by the ending of its name; hidden files are none."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and base.rsplit(".", 1)[-1].lower() in SUFFIXES


CAPTIONS = ("captions.txt", "captions.csv", "captions.jsonl")
"""Names under which a captions file is looked for in a folder."""

_CSV_FORM = "give a line image,caption at its head, and one such line a caption, in UTF-8"
_JSONL_FORM = 'give an object a line: {"image": "a.jpg", "caption": "..."} or "captions": [...]'
_IMAGE_KEYS = ("image", "file_name")


class ImageFiles(ImageList):
    """Image files under one folder.

    Args:
        place: What listed them.
        folder: What their paths are relative to.
        listed: The images.

    Raises:
        InputError: if there is none, or a file is missing.
    """

    def __init__(self, place: Path, folder: Path, listed: Sequence[ListedImage]) -> None:
        self.place, self.folder, self.listed = place, folder, listed
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
        """Tell what is known of one image."""
        return self.listed[row]

    def read(self, row: int) -> bytes:
        """Read one file."""
        file = self.place_of(row)
        try:
            return file.read_bytes()
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise InputError(problem, fix="put it back", file=file) from error

    def place_of(self, row: int) -> Path:
        """Name the file."""
        return self.folder / self.listed[row].path


def class_folder(folder: Path) -> ImageFiles:
    """List all images under a folder; the subfolder they lie in is their class.

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
    """List the images of a captions file, in the order in which it first names them.

    Args:
        file: Either .jsonl, or comma-separated with the head image,caption; an image may come in
            several lines.
        folder: What its paths are relative to.

    Raises:
        InputError: if it has another form, or names an image that is missing.
    """
    captions: dict[str, list[str]] = {}
    for path, caption in (_jsonl if file.suffix == ".jsonl" else _csv)(file):
        captions.setdefault(path, []).extend(caption)
    return ImageFiles(
        file, folder, [ListedImage(path, (), tuple(said)) for path, said in captions.items()]
    )


def annotated(file: Path, folder: Path) -> ImageFiles:
    """List the images of a file of LVIS or COCO form; boxes need not be in it, nor be right.

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
        row.get("file_name") or "/".join(str(row.get("coco_url") or "").split("/")[-2:])
        for row in images.rows
    ]
    images.refuse(
        [not is_text(path) for path in paths],
        "file_name",
        "with neither file_name nor coco_url",
        fix="give each a file_name: a path relative to the folder of the images",
    )
    images.refuse_repeats("file_name", paths)
    return ImageFiles(file, folder, [ListedImage(path, (), ()) for path in paths])


def _csv(file: Path) -> Iterator[tuple[str, list[str]]]:
    lines = csv.reader(_lines(file))
    try:
        head = next(lines, [])
        if [word.strip() for word in head] != ["image", "caption"]:
            problem = f"its head is {','.join(head)!r}, not 'image,caption'"
            raise InputError(problem, fix=_CSV_FORM, file=file, field="line 1")
        for words in filter(None, lines):
            path, caption = words[0].strip(), ",".join(words[1:]).strip()
            if not path or not caption:
                where = f"line {lines.line_num}"
                raise InputError("lacks image or caption", fix=_CSV_FORM, file=file, field=where)
            yield path, [caption]
    except csv.Error as error:
        where = f"line {lines.line_num}"
        raise InputError(f"is no csv ({error})", fix=_CSV_FORM, file=file, field=where) from error


def _jsonl(file: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        said = _said(row) if isinstance(row, dict) else None
        if said is None:
            problem = "names no image, or no caption as text"
            where = f"line {number}"
            raise InputError(problem, fix=_JSONL_FORM, file=file, field=where)
        yield said


def _said(row: dict[str, Any]) -> tuple[str, list[str]] | None:
    """Give path and captions of one object, None if it has another form."""
    path = next((row[key] for key in _IMAGE_KEYS if key in row), None)
    captions = row.get("captions", [row.get("caption")])
    if not is_text(path) or not isinstance(captions, list) or not all(map(is_text, captions)):
        return None
    return str(path), captions


def _lines(file: Path) -> Iterable[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", fix=_CSV_FORM, file=file) from error


def _byte_count(file: Path) -> int:
    """Length of a file, -1 if there is none."""
    try:
        found = os.stat(file)  # noqa: PTH116 - a third of the time of Path.stat, once per image
    except (OSError, ValueError):  # a name that no file can have
        return -1
    return found.st_size
