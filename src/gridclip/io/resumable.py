"""Fetches large files so that a cut connection costs nothing: they go on where they stopped.

What has come lies beside the file, as `NAME.part`, with `NAME.part.tag`, the server's mark of the
file's version. A server that has another version by now, or that cannot send a range, sends all of
it again. A file takes its name only when its size and its sum are right.
"""

import hashlib
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

from gridclip.io.errors import InputError

_AT_ONCE = 1 << 20
_PATIENCE = 60.0  # seconds without a byte
_TRIES = 6  # without a byte in between
_RANGE_OVER = 416  # the range asked for begins behind the end


class Wanted(NamedTuple):
    """A file to fetch, and how to know that it is the right one."""

    address: str  # http or https
    size: int | None = None  # bytes
    sha256: str | None = None


class _Reason(NamedTuple):
    """Why a try has not brought all of a file."""

    text: str
    advanced: bool  # whether it has brought some


class _Changed(Exception):  # noqa: N818 - no error: what has come is of another version
    """The rest of a file is of another version than its beginning."""


def fetch_resumable(
    wanted: Wanted,
    file: Path,
    *,
    progress: Callable[[int], None] = lambda _: None,
    pause: float = 1.0,
) -> Path:
    """Fetches a file, or what is still missing of it.

    Args:
        wanted: Where it is; its size and sum are checked where they are given.
        file: Where to; a file that is there is taken to be right.
        progress: Called with the bytes that are there.
        pause: Seconds before the first new try; each waits twice as long as the one before.

    Raises:
        InputError: if the address is none, does not answer, breaks off without a byte six times in
            a row, or gives another file; of the last, nothing is kept.
    """
    if urlsplit(wanted.address).scheme not in ("http", "https"):
        raise InputError("is no address of http or https", file=wanted.address, fix="give one")
    if file.is_file():
        return file
    part, tag = file.with_name(file.name + ".part"), file.with_name(file.name + ".part.tag")
    file.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    while reason := _attempt(wanted, part, tag, progress):
        failed = 0 if reason.advanced else failed + 1
        if failed >= _TRIES:
            raise _unfetched(wanted, reason.text, part)
        time.sleep(min(pause * 2**failed, 60))
    _verify(wanted, part, tag)
    part.replace(file)
    tag.unlink(missing_ok=True)
    return file


def _attempt(
    wanted: Wanted, part: Path, tag: Path, progress: Callable[[int], None]
) -> _Reason | None:
    """Tries once; returns None when all has come.

    Raises:
        InputError: if the server refuses, so that another try would change nothing.
    """
    before = _length(part)
    try:
        _fetch_rest(wanted, part, tag, progress)
    except _Changed:
        part.unlink(missing_ok=True)
        return _Reason("it changes all the time", advanced=False)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError) and error.code < 500:
            raise _unfetched(wanted, str(error), part) from error
        return _Reason(str(error) or type(error).__name__, advanced=_length(part) > before)
    return None


def sum_of(file: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _unfetched(wanted: Wanted, reason: str, part: Path) -> InputError:
    fix = f"run the command again, which goes on from the {_length(part)} bytes that have come"
    return InputError(f"cannot be fetched: {reason}", fix=fix, file=wanted.address)


def _fetch_rest(wanted: Wanted, part: Path, tag: Path, progress: Callable[[int], None]) -> None:
    """Asks for what is missing, and appends it.

    Raises:
        _Changed: if the server has another version than what has come.
        OSError, HTTPException, ValueError: if it does not answer, or breaks off.
    """
    start, version = _length(part), tag.read_text() if tag.is_file() else ""
    if start and start == wanted.size:
        return
    answer = _ask(wanted.address, start, version)
    if answer is None:
        return
    with answer:
        if urlsplit(answer.url).scheme not in ("http", "https"):
            raise ValueError(f"it leads to {answer.url}")
        resumed = answer.status == 206
        if resumed and not _continues(answer, start, version):
            raise _Changed
        start = start if resumed else 0
        # Weak marks say that a version is as good, not that its bytes are the same.
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        tag.write_text("" if mark.startswith("W/") else mark)
        _append(answer, part, start, wanted, progress)


def _ask(address: str, start: int, version: str) -> Any:  # noqa: ANN401 - urllib's types
    """Returns an answer that begins at a byte, or at the first; None if there are no more."""
    request = urllib.request.Request(address)
    if start:
        request.add_header("Range", f"bytes={start}-")
        if version:
            request.add_header("If-Range", version)
    try:
        return urllib.request.urlopen(request, timeout=_PATIENCE)
    except HTTPError as error:
        if error.code != _RANGE_OVER:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return None
        raise _Changed from error


def _continues(answer: Any, start: int, version: str) -> bool:  # noqa: ANN401 - urllib's types
    """Returns whether what comes begins where it was asked to, and is of the same version."""
    marks = (answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
    told = str(answer.headers.get("Content-Range") or "")
    return told.startswith(f"bytes {start}-") and (not version or version in marks)


def _append(
    answer: Any,  # noqa: ANN401 - urllib's types do not say
    part: Path,
    start: int,
    wanted: Wanted,
    progress: Callable[[int], None],
) -> None:
    said = answer.headers.get("Content-Length")
    end = start + int(said) if said else None
    if wanted.size is not None and end is not None and end != wanted.size:
        raise _unlike(wanted, f"it has {end} bytes, not {wanted.size}")
    here = start
    with part.open("r+b" if start else "wb") as out:
        out.seek(start)
        while block := answer.read(_AT_ONCE):
            out.write(block)
            here += len(block)
            if wanted.size is not None and here > wanted.size:
                raise _unlike(wanted, f"it has more than {wanted.size} bytes")
            progress(here)
    if end is not None and here < end:
        raise ValueError(f"it broke off after {here} of {end} bytes")


def _unlike(wanted: Wanted, problem: str) -> InputError:
    fix = "if it was published anew, fetch it yourself and check it; else try a mirror: --mirror"
    return InputError(f"is another file: {problem}", fix=fix, file=wanted.address)


def _verify(wanted: Wanted, part: Path, tag: Path) -> None:
    """Checks size and sum; of a wrong file nothing is kept, as nothing tells where it went wrong.

    Raises:
        InputError: if either differs.
    """
    size, problem = _length(part), ""
    if wanted.size is not None and size != wanted.size:
        problem = f"it has {size} bytes, not {wanted.size}"
    elif wanted.sha256 is not None and sum_of(part) != wanted.sha256:
        problem = f"its SHA-256 is {sum_of(part)}, not {wanted.sha256}"
    if problem:
        part.unlink(missing_ok=True)
        tag.unlink(missing_ok=True)
        raise _unlike(wanted, problem)
