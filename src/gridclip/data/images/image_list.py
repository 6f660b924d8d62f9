"""Images without boxes in a fixed order, wherever they lie."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from gridclip.io.column_store import encode_text


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
        """Returns path, classes and captions of one image."""

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Reads the bytes of one image file.

        Raises:
            InputError: if it is gone or cut short.
        """

    def __len__(self) -> int:
        return len(self.byte_counts)

    def fingerprint(self) -> str:
        """Returns a digest of the images in order, which changes with any path or byte count.

        Content is not read, so a fingerprint of millions takes seconds. A folder and its packed
        shards have the same one.
        """
        counts = self.byte_counts.tolist()
        return fingerprint_of((self.image(row).path, count) for row, count in enumerate(counts))

    def place_of(self, row: int) -> Path:
        """Returns where one image is, for a message."""
        return self.place / self.image(row).path


def fingerprint_of(images: Iterable[tuple[str, int]]) -> str:
    """Returns a digest of images in order, by their paths and byte counts."""
    found = hashlib.sha256()
    for path, count in images:
        found.update(encode_text(path) + b"\0%d\n" % count)
    return found.hexdigest()[:32]
