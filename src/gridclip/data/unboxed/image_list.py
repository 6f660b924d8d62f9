"""Images without boxes, wherever they lie: one form for folders, captions files and shards."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image

from gridclip.data.columnar import encode_text
from gridclip.errors import InputError

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif")
"""Endings of picture files, the one to take first where a sample of a shard has several."""

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
        """Length of each picture file."""

    @property
    @abstractmethod
    def sizes(self) -> Int64[np.ndarray, "I 2"]:
        """Height and width of each image in pixels; of plain files, each header is read once."""

    @abstractmethod
    def image(self, row: int) -> ListedImage:
        """Tell what is known of one image."""

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Read the bytes of one picture file.

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


class PictureHeader(NamedTuple):
    """What the first bytes of a picture file tell."""

    height: int
    width: int
    suffix: str  # the ending that its format, whatever its name, should have


def read_header(opened: io.BufferedIOBase | Path, place: Path) -> PictureHeader:
    """Read size and format of a picture, without its pixels.

    Raises:
        InputError: if it is no picture.
    """
    try:
        with Image.open(opened) as picture:  # type: ignore[arg-type]
            width, height = picture.size
            format = str(picture.format)
    except Exception as error:
        raise unreadable(place, error) from error
    return PictureHeader(height, width, _SUFFIX_OF.get(format, format.lower()))


def unreadable(place: Path, error: Exception) -> InputError:
    """Say that a picture cannot be read."""
    return InputError(
        f"the picture cannot be read ({type(error).__name__}: {error})",
        fix="fetch or write it again, or take it out of the source",
        file=place,
    )


def is_picture(name: str) -> bool:
    """Tell a picture by the ending of its name; hidden files are none."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and base.rsplit(".", 1)[-1].lower() in SUFFIXES
