"""Proposals of many images, made once by a frozen network, or by anyone."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from gridclip.data.columnar import ColumnarFile, encode_text, text_columns, write_columnar
from gridclip.errors import InputError

FORM = "gridclip proposals 1"
REMEDY = "make it with gridclip propose"


class BoxesOfImage(NamedTuple):
    """Where something may be in one image, best first."""

    boxes: Float32[np.ndarray, "R 4"]  # xyxy, pixels of the original image
    scores: Float32[np.ndarray, "R"]  # objectness in [0, 1]


class StoredProposals:
    """Proposals by the path of their image. Memory-mapped, and it pickles as its name.

    Args:
        file: What `gridclip propose` wrote.

    Attributes:
        fingerprint: Changes with any image or box.

    Raises:
        InputError: if it is absent, cut short, or another kind of file.
    """

    def __init__(self, file: str | Path) -> None:
        self._columns = ColumnarFile(Path(file), FORM, REMEDY)
        self.file, self.fingerprint = self._columns.file, self._columns.header["fingerprint"]
        self._paths = self._columns.texts("paths")
        self._ends = self._columns.column("ends")
        self._boxes, self._scores = (self._columns.column(name) for name in ("boxes", "scores"))

    def __reduce__(self) -> tuple[type["StoredProposals"], tuple[Path]]:
        return StoredProposals, (self.file,)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Give those of these images that have no entry; one without a proposal has an entry."""
        return [path for path in paths if self._paths.row(path) is None]

    def of(self, path: str) -> BoxesOfImage:
        """Give the proposals of an image.

        Args:
            path: As the annotation file or source names it.

        Raises:
            InputError: if the image is not among those proposed for.
        """
        row = self._paths.row(path)
        if row is None:
            raise InputError(f"has no proposals for {path!r}", fix=REMEDY, file=self.file)
        rows = slice(self._ends[row], self._ends[row + 1])
        return BoxesOfImage(self._boxes[rows], self._scores[rows])


def write_proposals(file: Path, found: Mapping[str, BoxesOfImage], source: str) -> None:
    """Write what `StoredProposals` reads.

    Args:
        file: Where to.
        found: Proposals by the path of their image.
        source: Who made them: a name that changes when they would.
    """
    paths = sorted(found, key=encode_text)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(found[path].boxes for path in paths)])
    scores = np.concatenate([np.zeros(0, np.float32), *(found[path].scores for path in paths)])
    ends = np.cumsum([0, *(len(found[path].boxes) for path in paths)], dtype=np.int64)
    columns = {"boxes": boxes, "scores": scores, "ends": ends, **text_columns("paths", paths)}
    content = hashlib.sha256(source.encode())
    for name in sorted(columns):
        content.update(columns[name].tobytes())
    header = {"source": source, "fingerprint": content.hexdigest()[:32]}
    write_columnar(file, FORM, header, columns)
