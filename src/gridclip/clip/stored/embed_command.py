"""The command that embeds training images once, so that no step pays for the teacher."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float16, Shaped, UInt8
from rich.console import Console
from rich.progress import track

from gridclip.clip.openclip import ClipModel
from gridclip.clip.stored.embed import embed_images
from gridclip.clip.stored.embeddings import StoredEmbeddings
from gridclip.clip.stored.journal import journal_beside
from gridclip.clip.teachers import ClipTeacher, Teacher
from gridclip.data.columnar import Texts, encode_text, text_columns, write_columnar
from gridclip.data.unboxed.image_list import ImageList
from gridclip.data.unboxed.sources import open_images
from gridclip.errors import InputError

_CLIP = ClipModel()
_DIGEST = 16  # bytes


class Stored(NamedTuple):
    """What a file of embeddings holds, sorted by path."""

    paths: list[str]
    digests: UInt8[np.ndarray, "I 16"]  # of each file's content
    byte_counts: Shaped[np.ndarray, "I"]
    embeddings: Float16[np.ndarray, "I 2 E"]  # of the picture, of its mirror image


def embed_command(  # noqa: PLR0913 - one argument a setting
    source: Path,
    *,
    output: Path,
    images: Path | None = None,
    clip: ClipModel = _CLIP,
    teacher: Teacher | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
) -> None:
    """Store the teacher's embeddings of training images, and of their mirror images.

    Running it again adds what is new or has changed, and keeps the rest. If it is interrupted, call
    it again: it goes on where it was.

    Args:
        source: An annotation file of LVIS or COCO form, or what else gridclip data pack takes.
        output: File to write or to add to, such as embeddings.safetensors.
        images: What the paths in the file are relative to; by default the folder images beside it,
            or else its own.
        clip: The CLIP whose image tower is the teacher.
        teacher: Another teacher, in place of a CLIP.
        batch_size: Pictures a step.
        num_workers: Processes that read pictures; 0 reads in this one.
    """
    listed = open_images(source, images)
    chosen = teacher or ClipTeacher(clip)
    count = embed(listed, chosen, output, batch_size=batch_size, num_workers=num_workers)
    Console().print(f"{count} of {len(listed)} images embedded, the others were there: {output}")


def embed(
    images: ImageList, teacher: Teacher, output: Path, *, batch_size: int = 32, num_workers: int = 0
) -> int:
    """Write or complete a file of embeddings.

    An image is what its path and its content say. The content is hashed, because times change when
    files are copied, and reading a file costs far less than what the teacher does.

    Args:
        images: With distinct paths.
        teacher: Not loaded yet.
        output: File to write or to add to.
        batch_size: Pictures a step.
        num_workers: Processes that read pictures.

    Returns:
        How many were embedded now.

    Raises:
        InputError: if the output is another teacher's, or a picture cannot be read.
    """
    paths = [images.image(row).path for row in range(len(images))]
    _require_distinct(paths, images)
    teacher.load()
    with journal_beside(output) as journal:
        before = _read(output, teacher)
        digests = _digests(images)
        place = {path: row for row, path in enumerate(before.paths)}
        fresh = [
            row
            for row, path in enumerate(paths)
            if path not in place or (before.digests[place[path]] != digests[row]).any()
        ]
        if fresh:
            vectors = embed_images(
                images, fresh, teacher, journal, batch_size=batch_size, num_workers=num_workers
            )
            added = [paths[row] for row in fresh]
            now = Stored(added, digests[fresh], images.byte_counts[fresh], vectors)
            _write(_merged(before, now), teacher, output)
    return len(fresh)


def _digests(images: ImageList) -> UInt8[np.ndarray, "I 16"]:
    rows = track(range(len(images)), "reading", disable=len(images) < 1000)
    content = b"".join(
        hashlib.blake2b(images.read(row), digest_size=_DIGEST).digest() for row in rows
    )
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, _DIGEST)


def _read(file: Path, teacher: Teacher) -> Stored:
    if not file.exists():
        empty = np.zeros((0, _DIGEST), dtype=np.uint8)
        vectors = np.zeros((0, 2, teacher.width), dtype=np.float16)
        return Stored([], empty, np.zeros(0, dtype=np.int64), vectors)
    kept = StoredEmbeddings(file)
    if kept.fingerprint != teacher.fingerprint():
        raise InputError(
            f"holds embeddings of another teacher: {kept.fingerprint}",
            fix="name another output, or remove it",
            file=file,
            field="output",
        )
    paths: Texts = kept.columns.texts("paths")
    rest = (kept.columns.column(name) for name in ("digests", "byte_counts", "embeddings"))
    return Stored(paths.all(), *rest)


def _merged(before: Stored, now: Stored) -> Stored:
    """Take what is new, and what was there before under other paths; sort by path."""
    replaced = set(now.paths)
    kept = [row for row, path in enumerate(before.paths) if path not in replaced]
    paths = [before.paths[row] for row in kept] + now.paths
    order = sorted(range(len(paths)), key=lambda row: encode_text(paths[row]))
    columns = (
        np.concatenate([old[kept], new])[order]
        for old, new in zip(before[1:], now[1:], strict=True)
    )
    return Stored([paths[row] for row in order], *columns)


def _write(stored: Stored, teacher: Teacher, file: Path) -> None:
    header = {"teacher": teacher.fingerprint(), "width": str(teacher.width)}
    columns = {
        "digests": stored.digests,
        "byte_counts": stored.byte_counts,
        "embeddings": stored.embeddings,
    }
    columns |= text_columns("paths", stored.paths)
    write_columnar(file, StoredEmbeddings.form, header, columns)


def _require_distinct(paths: list[str], images: ImageList) -> None:
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise InputError(
            f"two images have the path {twice!r}",
            fix="give each its own: embeddings are found by path",
            file=images.place,
        )
