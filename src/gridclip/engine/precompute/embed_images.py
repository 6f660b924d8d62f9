"""The command that embeds training images once, so that no step pays for the teacher."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16, Shaped, UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gridclip.data.images.decode import decode_image
from gridclip.data.images.image_list import ImageList
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.stored import StoredEmbeddings
from gridclip.engine.precompute.resume import RowJournal, journal_beside
from gridclip.io.column_store import Texts, encode_text, text_columns, write_columnar
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import require_writable
from gridclip.io.tables import make_console, say
from gridclip.models.encoders import ClipTeacher, Teacher
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.ops.images import pad
from gridclip.structures import Images

# Images of very different sizes are padded to the largest: up to this many pixels a batch; beyond
# it, one by one.
_PIXELS_AT_ONCE = 64_000_000


def embed_images(
    images: ImageList,
    rows: Sequence[int],
    teacher: Teacher,
    journal: Path,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Float16[np.ndarray, "R 2 E"]:
    """Embeds images, plain and mirrored; an interrupted call goes on where it was.

    Args:
        images: What to read from.
        rows: Which of them.
        teacher: Loaded; it runs on a GPU if there is one.
        journal: Where embeddings are kept until all are made.
        batch_size: Images read at a time; the teacher sees each twice.
        num_workers: Processes that read and decode; 0 does it in this one.

    Returns:
        Unit vectors, memory-mapped, rounded to float16: of the image and of its mirror image.

    Raises:
        InputError: if an image cannot be read.
    """
    kept = RowJournal(
        journal,
        f"{teacher.fingerprint()} {images.fingerprint()} {batch_size} {list(rows)}",
        width=2 * teacher.width,
        batch_size=batch_size,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = teacher.to(device).eval()
    batches = DataLoader(
        DecodedImages(images, rows[kept.done :]),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    for decoded in track(batches, "embedding", disable=not len(rows) > kept.done):
        kept.append(_embed(teacher, decoded, device))
    return kept.rows().reshape(-1, 2, teacher.width)


class DecodedImages(Dataset[Tensor]):
    """Some images of a list, decoded.

    Args:
        images: What to read from.
        rows: Which of them.
    """

    def __init__(self, images: ImageList, rows: Sequence[int]) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Reads and decodes one image, RGB."""
        row = self.rows[index]
        pixels = decode_image(self.images.read(row), self.images.place_of(row))
        return torch.from_numpy(pixels).permute(2, 0, 1)


@torch.no_grad()
def _embed(
    teacher: Teacher, decoded: list[UInt8[Tensor, "3 _ _"]], device: torch.device
) -> Float16[np.ndarray, "b W"]:
    height, width = (max(pixels.shape[side] for pixels in decoded) for side in (1, 2))
    alone = len(decoded) * height * width > _PIXELS_AT_ONCE
    vectors = []
    for group in [[pixels] for pixels in decoded] if alone else [decoded]:
        plain = pad(group, 1)
        mirrored = pad([pixels.flip(2) for pixels in group], 1)
        both = [teacher(Images(*(part.to(device) for part in view))) for view in (plain, mirrored)]
        vectors.append(torch.cat(both, dim=1))
    return torch.cat(vectors).half().cpu().numpy()


_CLIP = ClipModel()
_DIGEST = 16  # bytes


class Stored(NamedTuple):
    """What a file of embeddings holds, sorted by path."""

    paths: list[str]
    digests: UInt8[np.ndarray, "I 16"]  # of each file's content
    byte_counts: Shaped[np.ndarray, "I"]
    embeddings: Float16[np.ndarray, "I 2 E"]  # of the image, of its mirror image


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
        batch_size: Images a step.
        num_workers: Processes that read images; 0 reads in this one.
    """
    require_at_least(1, batch_size=batch_size)
    require_at_least(0, num_workers=num_workers)
    require_writable(output)
    listed = open_images(source, images)
    chosen = teacher or ClipTeacher(clip)
    count = embed(listed, chosen, output, batch_size=batch_size, num_workers=num_workers)
    say(
        make_console(), f"{count} of {len(listed)} images embedded, the others were there: {output}"
    )


def embed(
    images: ImageList, teacher: Teacher, output: Path, *, batch_size: int = 32, num_workers: int = 0
) -> int:
    """Writes or completes a file of embeddings.

    An image is what its path and its content say. The content is hashed, because times change when
    files are copied, and reading a file costs far less than what the teacher does.

    Args:
        images: With distinct paths.
        teacher: Not loaded yet.
        output: File to write or to add to.
        batch_size: Images a step.
        num_workers: Processes that read images.

    Returns:
        How many were embedded now.

    Raises:
        InputError: if the output is another teacher's, or an image cannot be read.
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
    """Takes what is new, and what was there before under other paths, sorted by path."""
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
    columns = stored._asdict()
    columns |= text_columns("paths", columns.pop("paths"))
    write_columnar(file, StoredEmbeddings.form, header, columns)


def _require_distinct(paths: list[str], images: ImageList) -> None:
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise InputError(
            f"two images have the path {twice!r}",
            fix="give each its own: embeddings are found by path",
            file=images.place,
        )
