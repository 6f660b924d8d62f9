"""Fetches a file by its address, once, into the cache; what it holds is for its reader to judge."""

import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gridclip.io.column_store import digest
from gridclip.io.errors import InputError
from gridclip.io.files import cache_folder, written_whole

MOST_BYTES = 20_000_000_000
"""Longest file that is fetched; no checkpoint of this package has a tenth of it."""

_AT_ONCE = 1 << 20
_PATIENCE = 60.0  # seconds without a byte


def is_address(source: str) -> bool:
    """Returns whether a text names a protocol, as in https://host/last.ckpt, rather than a file."""
    return "://" in source


def require_web(address: str, *, field: str) -> None:
    """Refuses an address that is not of the web.

    Raises:
        InputError: if it is neither http nor https.
    """
    scheme = urlsplit(address).scheme
    if scheme not in ("http", "https"):
        fix = "give a file, or an address of http or https"
        raise InputError(f"{scheme}:// is not fetched", fix=fix, file=address, field=field)


def fetch(address: str, *, field: str, most: int = MOST_BYTES) -> Path:
    """Returns the file in the cache that an address was fetched to, now or before.

    Args:
        address: Of the web: http or https.
        field: Argument that gives it, for messages.
        most: Bytes that it may have.

    Raises:
        InputError: if it is no such address, does not answer, or has more bytes.
    """
    require_web(address, field=field)
    name = Path(urlsplit(address).path).name
    file = cache_folder() / "downloads" / f"{digest(address)}-{name[-60:]}"
    if not file.is_file():
        download(address, file, field=field, most=most)
    return file


def download(address: str, file: Path, *, field: str, most: int) -> None:
    """Fetches an address into a file, which appears whole; arguments and errors as of `fetch`."""
    require_web(address, field=field)
    try:
        with urllib.request.urlopen(address, timeout=_PATIENCE) as answer:
            if urlsplit(answer.url).scheme not in ("http", "https"):
                raise ValueError(f"it leads to {answer.url}")
            with written_whole(file) as part:
                _copy(answer, part, most)
    except (OSError, ValueError, HTTPException) as error:
        fix = "check the address, or fetch it yourself"
        problem = f"cannot be fetched: {error}"
        raise InputError(problem, fix=fix, file=address, field=field) from error


def _copy(answer: Any, part: Path, most: int) -> None:  # noqa: ANN401 - urllib's types do not say
    """Writes an answer to a file.

    Raises:
        ValueError: if it is longer than `most`, whatever it says of its length, or is cut short.
    """
    said = int(answer.headers.get("Content-Length") or 0)
    copied = 0
    with part.open("wb") as out:
        while (block := answer.read(_AT_ONCE)) and max(said, copied) <= most:
            out.write(block)
            copied += len(block)
    if max(said, copied) > most:
        raise ValueError(f"it has more than {most} bytes")
    if copied < said:
        raise ValueError(f"it ended after {copied} of {said} bytes")
