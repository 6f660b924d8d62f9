"""Writes files whole or not at all, asks before work whether they can be, and names the cache."""

import functools
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gridclip.io.errors import InputError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Returns the folder of all caches, $GRIDCLIP_CACHE or ~/.cache/gridclip; it may not exist.

    A user without a home, or with one that is not theirs, as containers have, gets a folder that is
    removed at the end, and a warning.
    """
    if given := os.environ.get("GRIDCLIP_CACHE"):
        return Path(given)
    try:
        folder = Path.home() / ".cache" / "gridclip"
        folder.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError) as error:  # the first where not even a name of it is known
        return Path(_passing_cache(str(error)).name)
    return folder


@functools.cache
def _passing_cache(reason: str) -> tempfile.TemporaryDirectory[str]:
    logger.warning(
        "nothing can be kept in a cache at home (%s), so it is made again each time; "
        "set GRIDCLIP_CACHE to a folder of yours",
        reason,
    )
    return tempfile.TemporaryDirectory(prefix="gridclip-cache-")


@contextmanager
def written_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields a new name beside a path; what is written there takes the path when all went well.

    So no process ever reads half a file, what was there stays until then, and after an error
    nothing else is left. A rename within a folder is atomic on network disks as well.

    Args:
        path: A file or, where it is new or empty, a folder; the folder it is in is made.
        durable: Whether it is on the disk, and not only in memory, before it takes the path.

    Raises:
        OSError: if the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No process id, which may be the same on two machines; cut short, as names end at 255 bytes.
    part = path.with_name(f".{path.name[:48]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        if durable:
            _flush(part)
        part.replace(path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        if error.errno is not None:  # else its text would be lost beside a name
            error.filename = error.filename or str(path)  # a write to a full disk names none
        raise
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; its folder is made."""
    with written_whole(file) as part:
        part.write_text(text, encoding="utf-8")


def require_writable(output: Path, *, field: str = "output", new: bool = False) -> None:
    """Makes the folder of a file that is to be written, and tries to write into it.

    A command asks this before its work, so that no result is lost for want of a place.

    Args:
        output: The file.
        field: Argument that names it.
        new: Whether a file that exists is refused too.

    Raises:
        InputError: if it is a folder or a device, cannot be written, or exists and must not.
    """
    _require_room(output, field)
    if new and output.exists():
        problem, fix = "exists already", "give the name of a new file"
        raise InputError(problem, fix=fix, file=output, field=field)
    if output.is_dir():
        raise InputError("is a folder", fix="give a file in it", file=output, field=field)
    if output.exists() and not output.is_file():  # the rename would replace /dev/null
        raise InputError("is no plain file", fix="name a file", file=output, field=field)


def _require_room(output: Path, field: str) -> None:
    """Makes the folder that a path is in, and tries to write there; the path itself is not made.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        with suppress(FileNotFoundError):
            output.stat()  # which finds a name that is too long
        output.parent.mkdir(parents=True, exist_ok=True)
        trial = output.with_name(f".{secrets.token_hex(8)}.trial")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})",
            fix="give a path in a folder of yours",
            file=output,
            field=field,
        ) from error


def require_inside(
    file: Path, folder: Path, *, source: Path | None = None, field: str | None = None
) -> None:
    """Refuses a file that is not in a folder, however its path or a link leads out.

    Args:
        file: It may be absent.
        folder: Where it must be.
        source: Who names the file, if it is not the folder itself.
        field: Where in that source.

    Raises:
        InputError: if it is elsewhere, or no file but a device or the like.
    """
    try:
        target = file.resolve()
        inside = target.is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        target, inside = file, False
    if inside and (target.is_file() or not target.exists()):
        return
    raise InputError(
        f"leads to {target}, which is no file of {folder}",
        fix="remove what leads there, or copy the file into the folder",
        file=source or file,
        field=field,
    )


def refuse_paths_outside(folder: Path, paths: Iterable[str], *, source: Path, field: str) -> None:
    """Refuses paths that lead out of the folder that they are relative to.

    What they say counts, `..` included. Links in the folder are followed, for who lists paths
    cannot make one.

    Args:
        folder: Of the images.
        paths: As a file lists them.
        source: That file.
        field: Where it does.

    Raises:
        InputError: with count and examples.
    """
    root = os.path.normpath(folder.absolute())
    suspects = [path for path in paths if path.startswith(("/", "\\")) or ".." in path]
    outside = [
        path
        for path in suspects
        if not Path(os.path.normpath(Path(root) / path)).is_relative_to(root)
    ]
    if outside:
        raise InputError(
            f"{len(outside)} images would lie outside {folder}: "
            + ", ".join(map(repr, outside[:3]))
            + (", ..." if len(outside) > 3 else ""),
            fix="give the folder that holds all images, which may be /, or mend the paths",
            file=source,
            field=field,
        )


def is_finished(record: Path, recipe: object, *, field: str, other: str) -> bool:
    """Returns whether a folder holds what a recipe makes; a new or empty folder holds nothing.

    Args:
        record: The json file in the folder that says how its content was made.
        recipe: What that file must say, as json returns it.
        field: The argument that names the folder, for the message.
        other: What the folder holds if another recipe made it; `{made}` in it becomes that recipe.

    Raises:
        InputError: if the folder holds something else, or cannot be written.
    """
    folder, made = record.parent, read_recipe(record)
    if made == recipe:
        return True
    _require_room(folder, field)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    raise InputError(
        f"holds {'something else' if made is None else other.format(made=made)}",
        fix="name a new folder, or remove this one",
        file=folder,
        field=field,
    )


def read_recipe(record: Path) -> object:
    """Returns what a json file says; None if it is absent or not json."""
    try:
        return json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _flush(path: Path) -> None:
    """Has a file, or the names in a folder, on the disk and not only in memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
