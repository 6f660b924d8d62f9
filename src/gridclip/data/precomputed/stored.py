"""Proposals of many images, made once by a frozen network, or by anyone."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float32

from gridclip.io.column_store import ColumnarFile, encode_text, text_columns, write_columnar
from gridclip.io.errors import InputError


class StoredByPath:
    """A teacher's unit vectors of stored images, as they are and mirrored, by path.

    They are kept in float16, which costs a cosine less than 1e-3. Memory-mapped, and it pickles as
    its name.

    Args:
        file: A columnar file of the kind's form.

    Attributes:
        columns: What the file holds.
        width: Width E of the embeddings.
        fingerprint: Names the teacher, its weights and what it does to an image before.

    Raises:
        InputError: if it is absent, cut short, or another kind of file.
    """

    form: ClassVar[str]  # names the kind of file
    axes: ClassVar[str] = "I 2 E"  # of the embeddings of I images
    maker: ClassVar[str]  # the command that writes it
    lacking: ClassVar[str]  # the message about images that are not in it
    fix: ClassVar[str]  # how they get into it; {file} stands for its name

    def __init__(self, file: str | Path) -> None:
        self.columns = ColumnarFile(Path(file), self.form, f"make it with {self.maker}")
        self.file = self.columns.file
        self.fingerprint = self.columns.header["teacher"]
        self._paths = self.columns.texts("paths", "I")
        self._vectors = self.columns.column("embeddings", self.axes, "f")
        self.width: int = self._vectors.shape[2]

    def __reduce__(self) -> tuple[type["StoredByPath"], tuple[Path]]:
        return type(self), (self.file,)

    def check(self, paths: Iterable[str], folder: Path | None = None) -> None:
        """Refuses, before training, images that are not in it.

        Args:
            paths: As the annotation file or source names them.
            folder: What they are relative to. If it is given, the length of each file is compared
                with that of the file that was embedded.

        Raises:
            InputError: with count, the first names, and the command that adds them.
        """
        rows = {path: self._paths.row(path) for path in paths}
        missing = [path for path, row in rows.items() if row is None]
        if missing:
            raise self._fault(missing, self.lacking)
        if folder is not None:
            counts = self.columns.column("byte_counts", "I", "i")
            found = {path: (folder / path).stat().st_size for path in rows}
            changed = [path for path, row in rows.items() if counts[row] != found[path]]
            if changed:
                raise self._fault(changed, "are other files than those embedded")

    def _row(self, path: str) -> int:
        """Returns the row of an image.

        Raises:
            InputError: if it is not among those embedded.
        """
        row = self._paths.row(path)
        if row is None:
            raise self._fault([path], self.lacking)
        return row

    def _fault(self, paths: list[str], problem: str) -> InputError:
        examples = ", ".join(map(repr, paths[:3])) + (", ..." if len(paths) > 3 else "")
        return InputError(
            f"{len(paths)} images {problem}: {examples}",
            fix=self.fix.format(file=self.file),
            file=self.file,
        )


class StoredEmbeddings(StoredByPath):
    """A teacher's embeddings of whole images and of their mirror images, by path.

    They are of the stored image, so they hold for a view that shows all of it, resized and
    perhaps mirrored; not for one that was cropped or recoloured.
    """

    form = "gridclip embeddings 1"
    maker = "gridclip data embed"
    lacking = "have no embedding"
    fix = (
        "add them: gridclip data embed ANNOTATIONS.json --images DIR --output {file} "
        "(with the same teacher; what is there stays)"
    )

    def __len__(self) -> int:
        return len(self._vectors)

    def of(self, path: str, mirrored: bool) -> Float32[np.ndarray, "E"]:
        """Returns the unit vector of an image, or of its mirror image.

        Args:
            path: As the annotation file or source names it.
            mirrored: Which of the two.

        Raises:
            InputError: if the image is not among those embedded.
        """
        return np.asarray(self._vectors[self._row(path), int(mirrored)], dtype=np.float32)


class RegionsOfImage(NamedTuple):
    """A frozen CLIP's embeddings of regions of one image, best proposal first."""

    boxes: Float32[np.ndarray, "R 4"]  # xyxy, pixels of the original image, not mirrored
    embeddings: Float32[np.ndarray, "R E"]  # unit length, but for the rounding of float16


FIRST_VIEW = "vild"
"""How teachers were shown regions before files said how."""


class StoredRegions(StoredByPath):
    """A teacher's embeddings of proposals, as they are and mirrored, by the path of their image.

    They are of crops of the stored image, so they hold for a proposal that a view shows whole,
    resized and perhaps mirrored; not for one that a crop cuts, nor under other colours.

    Attributes:
        recipe: Names all that the embeddings depend on: teacher, view, proposals and images.
        view: How the teacher was shown a region; a file of before it was recorded has the one view
            that there was.
        named: Share of annotated boxes that the teacher named right in this view
            (`gridclip clip probe`); None: nobody looked.
    """

    form = "gridclip regions 1"
    axes = "R 2 E"
    maker = "gridclip clip embed-proposals"
    lacking = "have no embedded proposals"
    fix = (
        "propose for all training images and embed them: gridclip propose, then "
        "gridclip clip embed-proposals"
    )

    def __init__(self, file: str | Path) -> None:
        super().__init__(file)
        header = self.columns.header
        self.recipe, self.view = header["recipe"], header.get("view", FIRST_VIEW)
        self.named = header.number("named") if "named" in header else None
        self._limit = int(header.number("limit"))
        self._counts = self.columns.column("counts", "I", "i")
        self._boxes = self.columns.column("boxes", "R 4", "f")
        if len(self._boxes) != self._limit * len(self._counts):
            problem = f"{len(self._boxes)} boxes are not {self._limit} for each image"
            raise InputError(problem, fix=f"make it with {self.maker}", file=self.file)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def of(self, path: str, mirrored: bool) -> RegionsOfImage:
        """Returns the regions of an image, with the embeddings of their crops or mirrored crops.

        Args:
            path: As the annotation file or source names it.
            mirrored: Which of the two.

        Raises:
            InputError: if the image is not among those embedded.
        """
        row = self._row(path)
        first = row * self._limit
        rows = slice(first, first + int(self._counts[row]))
        vectors = np.asarray(self._vectors[rows, int(mirrored)], dtype=np.float32)
        return RegionsOfImage(np.asarray(self._boxes[rows]), vectors)


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
        self._paths = self._columns.texts("paths", "I")
        self._ends = self._columns.column("ends", "I+1", "i")
        self._boxes = self._columns.column("boxes", "R 4", "f")
        self._scores = self._columns.column("scores", "R", "f")

    def __reduce__(self) -> tuple[type["StoredProposals"], tuple[Path]]:
        return type(self), (self.file,)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Returns those of these images that have no entry; one without a proposal has an entry."""
        return [path for path in paths if self._paths.row(path) is None]

    def of(self, path: str) -> BoxesOfImage:
        """Returns the proposals of an image.

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
    """Writes what `StoredProposals` reads.

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
