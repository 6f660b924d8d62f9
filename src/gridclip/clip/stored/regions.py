"""Stored embeddings of regions of training images, so that no step pays for their crops."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from gridclip.data.columnar import ColumnarFile
from gridclip.errors import InputError

FORM = "gridclip regions 1"
REMEDY = "make it with gridclip clip embed-proposals"


class RegionsOfImage(NamedTuple):
    """What a frozen CLIP saw in regions of one image, best proposal first."""

    boxes: Float32[np.ndarray, "R 4"]  # xyxy, pixels of the original image, not mirrored
    embeddings: Float32[np.ndarray, "R E"]  # unit length, but for the rounding of float16


class StoredRegions:
    """A teacher's embeddings of proposals, as they are and mirrored, by the path of their image.

    They are of crops of the stored picture, so they hold for a proposal that a view shows whole,
    resized and perhaps mirrored; not for one that a crop cuts, nor under other colours. They are
    kept in float16. Memory-mapped, and it pickles as its name.

    Args:
        file: What `gridclip clip embed-proposals` wrote.

    Attributes:
        width: Width E of the embeddings.
        fingerprint: Names the teacher, its weights and what it does to a picture before.

    Raises:
        InputError: if it is absent, cut short, or another kind of file.
    """

    def __init__(self, file: str | Path) -> None:
        self._columns = ColumnarFile(Path(file), FORM, REMEDY)
        self.file, self.fingerprint = self._columns.file, self._columns.header["teacher"]
        self.recipe = self._columns.header["recipe"]
        self._limit = int(self._columns.header["limit"])
        self._paths = self._columns.texts("paths")
        self._counts, self._boxes, self._vectors = (
            self._columns.column(name) for name in ("counts", "boxes", "embeddings")
        )
        self.width: int = self._vectors.shape[2]

    def __reduce__(self) -> tuple[type["StoredRegions"], tuple[Path]]:
        return StoredRegions, (self.file,)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def of(self, path: str, mirrored: bool) -> RegionsOfImage:
        """Give the regions of an image, with the embeddings of their crops or mirrored crops.

        Args:
            path: As the annotation file or source names it.
            mirrored: Which of the two.

        Raises:
            InputError: if the image is not among those embedded.
        """
        row = self._paths.row(path)
        if row is None:
            raise self._fault([path], "have no embedded proposals")
        first = row * self._limit
        rows = slice(first, first + int(self._counts[row]))
        vectors = np.asarray(self._vectors[rows, int(mirrored)], dtype=np.float32)
        return RegionsOfImage(np.asarray(self._boxes[rows]), vectors)

    def check(self, paths: Iterable[str], folder: Path | None = None) -> None:
        """Refuse, before training, images that have no embedded proposals.

        Args:
            paths: As the annotation file or source names them.
            folder: What they are relative to. If it is given, the length of each file is compared
                with that of the file that was embedded.

        Raises:
            InputError: with count and the first names.
        """
        rows = {path: self._paths.row(path) for path in paths}
        missing = [path for path, row in rows.items() if row is None]
        if missing:
            raise self._fault(missing, "have no embedded proposals")
        if folder is not None:
            counts = self._columns.column("byte_counts")
            found = {path: (folder / path).stat().st_size for path in rows}
            changed = [path for path, row in rows.items() if counts[row] != found[path]]
            if changed:
                raise self._fault(changed, "are other files than those embedded")

    def _fault(self, paths: list[str], problem: str) -> InputError:
        examples = ", ".join(map(repr, paths[:3])) + (", ..." if len(paths) > 3 else "")
        return InputError(
            f"{len(paths)} images {problem}: {examples}",
            fix="propose for all training images and embed them: gridclip propose, then "
            "gridclip clip embed-proposals",
            file=self.file,
        )
