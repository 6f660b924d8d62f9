"""What stored outputs of a teacher have in common: they are found by the path of an image."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from gridclip.data.columnar import ColumnarFile
from gridclip.errors import InputError


class StoredByPath:
    """A teacher's unit vectors of stored pictures, as they are and mirrored, by path.

    They are kept in float16, which costs a cosine less than 1e-3. Memory-mapped, and it pickles as
    its name.

    Args:
        file: A columnar file of the kind's form.

    Attributes:
        columns: What the file holds.
        width: Width E of the embeddings.
        fingerprint: Names the teacher, its weights and what it does to a picture before.

    Raises:
        InputError: if it is absent, cut short, or another kind of file.
    """

    form: ClassVar[str]  # names the kind of file
    maker: ClassVar[str]  # the command that writes it
    lacking: ClassVar[str]  # what is said of images that are not in it
    fix: ClassVar[str]  # how they get into it; {file} stands for its name

    def __init__(self, file: str | Path) -> None:
        self.columns = ColumnarFile(Path(file), self.form, f"make it with {self.maker}")
        self.file = self.columns.file
        self.fingerprint = self.columns.header["teacher"]
        self._paths = self.columns.texts("paths")
        self._vectors = self.columns.column("embeddings")
        self.width: int = self._vectors.shape[2]

    def __reduce__(self) -> tuple[type["StoredByPath"], tuple[Path]]:
        return type(self), (self.file,)

    def check(self, paths: Iterable[str], folder: Path | None = None) -> None:
        """Refuse, before training, images that are not in it.

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
            counts = self.columns.column("byte_counts")
            found = {path: (folder / path).stat().st_size for path in rows}
            changed = [path for path, row in rows.items() if counts[row] != found[path]]
            if changed:
                raise self._fault(changed, "are other files than those embedded")

    def _row(self, path: str) -> int:
        """Where an image stands.

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
