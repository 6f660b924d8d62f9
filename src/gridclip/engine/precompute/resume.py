"""What a long computation has got so far, on disk, so that an interrupted one goes on."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float

from gridclip.io.errors import InputError
from gridclip.io.files import require_writable

_HEAD = 64  # bytes: the hash of the recipe, in hexadecimal


class RowJournal:
    """Rows of numbers, appended a batch at a time.

    Args:
        file: Where they are kept; what another recipe left there is dropped.
        recipe: What the rows depend on, all of it.
        width: Numbers of a row.
        batch_size: Rows of a batch. Only whole batches count as done, so that the batches after an
            interruption are those of a run without one, and give the same bytes.
        dtype: Of the numbers, as numpy spells it.
    """

    def __init__(
        self, file: Path, recipe: str, *, width: int, batch_size: int, dtype: str = "<f2"
    ) -> None:
        self.file, self.width, self._dtype = file, width, np.dtype(dtype)
        self._stride = width * self._dtype.itemsize
        head = hashlib.sha256(recipe.encode()).hexdigest().encode()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab+") as opened:
            opened.seek(0)
            if opened.read(_HEAD) != head:
                opened.truncate(0)
                opened.write(head)
            self.done = (opened.seek(0, os.SEEK_END) - _HEAD) // self._stride
            self.done -= self.done % batch_size

    def append(self, rows: Float[np.ndarray, "b W"]) -> None:
        """Writes one batch behind those that are done."""
        with self.file.open("rb+") as opened:
            opened.seek(_HEAD + self._stride * self.done)
            opened.write(rows.astype(self._dtype).tobytes())
            opened.truncate()
        self.done += len(rows)

    def rows(self) -> Float[np.ndarray, "R W"]:
        """Returns what is done, memory-mapped."""
        if not self.done:
            return np.zeros((0, self.width), dtype=self._dtype)
        shape = (self.done, self.width)
        return np.memmap(self.file, dtype=self._dtype, mode="r", offset=_HEAD, shape=shape)


@contextmanager
def journal_beside(output: Path) -> Iterator[Path]:
    """Names the journal of an output file; it is removed when all went well.

    Raises:
        InputError: if another process is writing that output, or it cannot be written.
    """
    journal = output.with_name(f".{output.name}.journal")
    lock = FileLock(journal.with_name(f"{journal.name}.lock"), timeout=0)
    require_writable(output)
    try:
        lock.acquire()
    except Timeout as error:
        fix = "wait for the other run, or name another file"
        raise InputError("another run is writing it", fix=fix, file=output) from error
    try:
        yield journal
        journal.unlink(missing_ok=True)
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def is_made(output: Path, recipe: object, made: Callable[[], object], other: str) -> bool:
    """Returns whether a file holds what a recipe makes; what another made is not written over.

    Args:
        output: The file; it may be absent.
        recipe: What its content depends on.
        made: Reads the recipe of a file that is there.
        other: What the file holds if that is another.

    Raises:
        InputError: if it does.
    """
    if not output.exists():
        return False
    if made() == recipe:
        return True
    fix = "name another output, or remove it"
    raise InputError(f"holds {other}", fix=fix, file=output, field="output")
