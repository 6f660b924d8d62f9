"""Stored embeddings of training images, so that no step pays for the teacher."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from gridclip.data.columnar import ColumnarFile
from gridclip.errors import InputError

FORM = "gridclip embeddings 1"
REMEDY = "make it with gridclip data embed"


class StoredEmbeddings:
    """A teacher's embeddings of whole images and of their mirror images, by path.

    They are of the stored picture, so they hold for a view that shows all of it, resized and
    perhaps mirrored; not for one that was cropped or recoloured. They are kept in float16, which
    costs a cosine less than 1e-3. Memory-mapped, and it pickles as its name.

    Args:
        file: What `gridclip data embed` wrote.

    Attributes:
        width: Width E of the embeddings.
        fingerprint: Names the teacher, its weights and what it does to a picture before.

    Raises:
        InputError: if it is absent, cut short, or another kind of file.
    """

    def __init__(self, file: str | Path) -> None:
        self._columns = ColumnarFile(Path(file), FORM, REMEDY)
        self.file = self._columns.file
        self.fingerprint = self._columns.header["teacher"]
        self._paths = self._columns.texts("paths")
        self._vectors = self._columns.column("embeddings")
        self.width: int = self._vectors.shape[2]

    def __reduce__(self) -> tuple[type["StoredEmbeddings"], tuple[Path]]:
        return StoredEmbeddings, (self.file,)

    def __len__(self) -> int:
        return len(self._vectors)

    def of(self, path: str, mirrored: bool) -> Float32[np.ndarray, "E"]:
        """Give the unit vector of an image, or of its mirror image.

        Args:
            path: As the annotation file or source names it.
            mirrored: Which of the two.

        Raises:
            InputError: if the image is not among those embedded.
        """
        row = self._paths.row(path)
        if row is None:
            raise self._fault([path], "have no embedding")
        return np.asarray(self._vectors[row, int(mirrored)], dtype=np.float32)

    def check(self, paths: Iterable[str], folder: Path | None = None) -> None:
        """Refuse, before training, images that have no embedding.

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
            raise self._fault(missing, "have no embedding")
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
            fix="add them: gridclip data embed ANNOTATIONS.json --images DIR "
            f"--output {self.file} (with the same teacher; what is there stays)",
            file=self.file,
        )
