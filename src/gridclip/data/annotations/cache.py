"""Columns of a source file, made once, kept on disk, and mapped by every process that reads it.

    $GRIDCLIP_CACHE/annotations/
      stamps/<hash of path>.json             the hash of a file's content, with its size and times
      <hash of content>-<format>-<variant>   a file of columns

A file whose sum does not match is made again.
"""

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import Shaped

from gridclip.io.column_store import ColumnarFile, write_columnar
from gridclip.io.errors import InputError
from gridclip.io.files import cache_folder, write_text
from gridclip.io.json_table import read_content

_FORMAT = 4  # raise it when a rule or a column changes, so that older files are not read
_FORM = "gridclip annotation cache"
_SETTLED = 2.0  # seconds after a change in which a second one may have the same time
_PATIENCE = 900.0  # seconds to wait for another process that makes the same columns

logger = logging.getLogger(__name__)


class Columns(NamedTuple):
    """What is kept of a file."""

    arrays: dict[str, Shaped[np.ndarray, "R ..."]]
    facts: Any  # whatever json holds


def indexed(source: Path, variant: str, make: Callable[[bytes], Columns]) -> Columns:
    """Returns the columns of a file: those kept if its content is the same, else new ones.

    Args:
        source: A file whose size and times are as before is not read again.
        variant: What else the columns depend on.
        make: Makes them from the content. What it raises is passed on, and nothing is kept.

    Raises:
        InputError: if the file cannot be read.
    """
    cache = cache_folder() / "annotations"
    times = _times(source)
    stamp = cache / "stamps" / f"{_hash(bytes(source.absolute()))}.json" if times else None
    known = _stamped(stamp, times) if stamp else None
    kept = _open(cache / f"{known}-{_FORMAT}-{variant}") if known else None
    if kept is not None:
        return kept
    content = read_content(source)
    digest = _hash(content)
    file = cache / f"{digest}-{_FORMAT}-{variant}"
    with _alone(cache):
        columns = _open(file) or _keep(make(content), file)
    # A file that changed meanwhile, or could change unnoticed, gets no stamp.
    if stamp and times and times == _times(source):
        settled = time.time_ns() - max(times[1:3]) > _SETTLED * 1e9
        with suppress(OSError):
            if settled:
                write_text(stamp, json.dumps({"times": times, "digest": digest}))
    return columns


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _times(file: Path) -> list[int] | None:
    """Returns size, times and inode; None for an absent file, which reading it reports better."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _stamped(stamp: Path, times: list[int] | None) -> str | None:
    """Returns the hash that a file's content had at these times, if a stamp says so."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        kept = json.loads(stamp.read_bytes())
        if kept["times"] == times and str(kept["digest"]).isalnum():
            return str(kept["digest"])
    return None


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Lets one process make columns while others wait; without locks, all make them."""
    lock = FileLock(cache / ".lock", timeout=_PATIENCE)
    with suppress(OSError, NotImplementedError):  # a Timeout is an OSError too
        cache.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _keep(columns: Columns, file: Path) -> Columns:
    """Writes columns and returns them mapped; unchanged if they cannot be written."""
    facts = json.dumps(columns.facts)
    header = {"facts": facts, "sum": _sum(facts, columns.arrays)}
    try:
        write_columnar(file, _FORM, header, columns.arrays)
    except OSError as error:
        logger.warning(
            "the index of annotations cannot be kept in %s (%s), so it is made again each time; "
            "set GRIDCLIP_CACHE to a folder of yours",
            file.parent,
            error.strerror,
        )
        return columns
    return _open(file) or columns


def _open(file: Path) -> Columns | None:
    """Maps what is kept; returns None if it is absent, cut short, or not what was written."""
    try:
        opened = ColumnarFile(file, _FORM, "remove it")
        arrays = {name: opened.column(name) for name in opened.names}
        facts = opened.header["facts"]
        return (
            Columns(arrays, json.loads(facts))
            if _sum(facts, arrays) == opened.header["sum"]
            else None
        )
    except (InputError, ValueError, TypeError, KeyError):
        return None


def _sum(facts: str, arrays: dict[str, Shaped[np.ndarray, "R ..."]]) -> str:
    """Returns a number that changes with any value, type, shape or name."""
    total = zlib.crc32(facts.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        total = zlib.crc32(array.data, total)
    return str(total)
