"""Columns of a source file, made once, kept on disk, and mapped by every process that reads it.

    $GRIDCLIP_CACHE/annotations/
      stamps/<hash of path>.json    what the content of a file was, by its size and times
      <hash of content>-<variant>/  one .npy a column, and facts.json, which names and sums them

A folder appears by a rename, whole or not at all. Whatever lies there that does not agree with its
own sums is made again.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import Shaped

from gridclip.io.files import cache_folder, written_whole
from gridclip.io.json_table import read_content

_FORMAT = 1  # raise it when a rule or a column changes, so that older folders are left alone
_FACTS = "facts.json"
_SETTLED = 2.0  # seconds after a change in which clocks may not tell a second one
_PATIENCE = 900.0  # seconds to wait for another process that makes the same columns

logger = logging.getLogger(__name__)


class Column(np.ndarray):
    """A mapped array that pickles as the name of its file, so that spawned workers map it too."""

    file: Path | None = None  # None for what is derived from it: that pickles as ever

    def __reduce__(self) -> Any:  # noqa: ANN401
        return (_map, (self.file,)) if self.file is not None else super().__reduce__()


class Columns(NamedTuple):
    """What is kept of a file."""

    arrays: dict[str, Shaped[np.ndarray, "R ..."]]
    facts: Any  # whatever json holds


def indexed(file: Path, variant: str, make: Callable[[bytes], Columns]) -> Columns:
    """Give the columns of a file: those kept if its content is the same, else made and kept.

    Args:
        file: The source. A file as long and as old as before is not read again.
        variant: What else the columns depend on.
        make: Makes them of the file's content. What it raises is passed on, and nothing is kept.

    Raises:
        InputError: if the file cannot be read.
    """
    cache = cache_folder() / "annotations"
    stamp = _Stamp.of(file, cache)
    kept = _open(cache / f"{stamp.digest}-{_FORMAT}-{variant}") if stamp and stamp.digest else None
    if kept is not None:
        return kept
    content = read_content(file)
    digest = hashlib.sha256(content).hexdigest()[:32]
    folder = cache / f"{digest}-{_FORMAT}-{variant}"
    with _alone(cache):
        columns = _open(folder) or _keep(make(content), folder)
    if stamp is not None:
        stamp.write(digest)
    return columns


class _Stamp(NamedTuple):
    """Whether a file is what it was when its content was last hashed."""

    source: Path
    place: Path
    facts: list[int]
    digest: str | None

    @staticmethod
    def of(source: Path, cache: Path) -> "_Stamp | None":
        """Look at a file; None if it isn't there, which reading it will tell better."""
        try:
            resolved, facts = source.resolve(), _times(source)
        except (OSError, ValueError):
            return None
        name = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:32]
        place = cache / "stamps" / f"{name}.json"
        digest = None
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            kept = json.loads(place.read_bytes())
            digest = str(kept["digest"]) if kept["facts"] == facts else None
        if digest is not None and not digest.isalnum():
            digest = None
        return _Stamp(resolved, place, facts, digest)

    def write(self, digest: str) -> None:
        """Remember the content, unless the file changed meanwhile or could change unnoticed."""
        with suppress(OSError):
            settled = time.time_ns() - max(self.facts[1:3]) > _SETTLED * 1e9
            if settled and _times(self.source) == self.facts:
                with written_whole(self.place) as part:
                    part.write_text(json.dumps({"facts": self.facts, "digest": digest}))


def _times(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Let one process make columns while others wait; where that can't be had, all make them."""
    lock = FileLock(cache / ".lock", timeout=_PATIENCE)
    with suppress(OSError, NotImplementedError):  # a Timeout is an OSError too
        cache.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _keep(columns: Columns, folder: Path) -> Columns:
    """Write columns and give them back mapped; as they are if nothing can be written."""
    try:
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            _write(columns, part)
            _move(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        logger.warning(
            "the index of annotations cannot be kept in %s (%s), so it is made again each time; "
            "set GRIDCLIP_CACHE to a folder of yours",
            folder.parent,
            error.strerror,
        )
        return columns
    return _open(folder) or columns


def _write(columns: Columns, folder: Path) -> None:
    sums = {}
    for name, array in columns.arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        sums[name] = _sum(folder / f"{name}.npy")
    text = json.dumps({"columns": sums, "facts": columns.facts})
    (folder / _FACTS).write_text(json.dumps({"sum": zlib.crc32(text.encode()), "text": text}))
    folder.chmod(0o755)  # mkdtemp's is for one person; what is shared follows the folder above


def _move(part: Path, folder: Path) -> None:
    """Put a finished folder in its place; one that is there and good wins, a bad one goes."""
    try:
        part.rename(folder)
    except OSError:
        if _open(folder) is not None:
            return
        bad = part.with_name(part.name + "-bad")
        folder.rename(bad)
        part.rename(folder)
        shutil.rmtree(bad, ignore_errors=True)


def _open(folder: Path) -> Columns | None:
    """Map what is kept; None if it is absent, cut short, or not what was written."""
    try:
        outer = json.loads((folder / _FACTS).read_bytes())
        if zlib.crc32(outer["text"].encode()) != outer["sum"]:
            return None
        inner = json.loads(outer["text"])
        if any(_sum(folder / f"{name}.npy") != known for name, known in inner["columns"].items()):
            return None
        arrays: dict[str, np.ndarray] = {
            name: _map(folder / f"{name}.npy") for name in inner["columns"]
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Columns(arrays, inner["facts"])


def _map(file: Path) -> Column:
    column = np.load(file, mmap_mode="r", allow_pickle=False).view(Column)
    column.file = file
    return column


def _sum(file: Path) -> int:
    total = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            total = zlib.crc32(block, total)
    return total
