"""From any source of images to tar shards with an index."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Int64
from rich.progress import track

from gridclip.data.images.decode import SUFFIXES, decode_image, read_header
from gridclip.data.images.image_list import ImageList
from gridclip.data.images.shards import INDEX, Shards, open_shards, write_index
from gridclip.data.images.sources import open_images
from gridclip.io.errors import InputError, require_range
from gridclip.io.files import is_finished, read_recipe, write_text, written_whole
from gridclip.io.tables import make_console, say

RECORD = "pack.json"
_BESIDE_IMAGE = 2048  # bytes of tar headers, padding and json that go with each, about


def pack_command(
    source: Path,
    output_dir: Path,
    images: Path | None = None,
    shard_size: float = 256.0,
    check_pixels: bool = True,
) -> None:
    """Pack images without boxes into tar shards (WebDataset's layout) with an index.

    The same source gives the same bytes. Image files go in as they are. If it is interrupted,
    call it again: finished shards are kept.

    Args:
        source: A folder with one subfolder per class; a captions file (captions.txt with the head
            image,caption, or .jsonl), or a folder with one; an annotation file of LVIS or COCO
            form, whose boxes are left out; tar shards of another tool.
        output_dir: Where to; the folder appears when all is written.
        images: What the paths in a captions or annotation file are relative to; by default the
            folder images beside it, or else its own.
        shard_size: Most megabytes of a shard, unless a single image is larger.
        check_pixels: Decode every image, to find those that are cut short.
    """
    require_range(shard_size, "shard_size", least=1e-6)
    packed = pack(
        open_images(source, images),
        output_dir,
        shard_bytes=round(shard_size * 1e6),
        check_pixels=check_pixels,
    )
    files = len(packed.files)
    say(make_console(), f"{len(packed)} images in {files} shard{'s'[: files > 1]}: {output_dir}")


def pack(
    images: ImageList, output_dir: Path, *, shard_bytes: int, check_pixels: bool = True
) -> Shards:
    """Writes shards and their index; nothing is done if they exist.

    Args:
        images: What to pack, in this order.
        output_dir: Where to; new, empty, or already holding these images.
        shard_bytes: About the most that a shard holds.
        check_pixels: Whether to decode every image.

    Raises:
        InputError: if the folder holds something else or is just being written, or an image cannot
            be read.
    """
    recipe = {"form": 1, "images": _content(images), "shard_bytes": shard_bytes}
    other = "other images, or shards of another size"
    with _alone(output_dir):
        if not is_finished(output_dir / RECORD, recipe, field="output_dir", other=other):
            part = _part(output_dir, recipe)
            ends = _shard_ends(images.byte_counts, shard_bytes)
            starts = [0, *ends[:-1]]
            for number, rows in enumerate(track(list(zip(starts, ends, strict=True)), "packing")):
                file = part / f"{number:05d}.tar"
                if not file.is_file():  # a file has its name only when it is whole
                    _write_shard(images, range(*rows), file, check_pixels)
            write_index(sorted(part.glob("*.tar")), part / INDEX)
            part.replace(output_dir)
    return open_shards(output_dir)


@contextmanager
def _alone(output_dir: Path) -> Iterator[None]:
    """Keeps a second process from the folder that one is writing.

    Raises:
        InputError: if one is.
    """
    lock = FileLock(output_dir.with_name(f".{output_dir.name}.lock"), timeout=0)
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            "is just being packed by another process",
            fix="wait for it, or name another output_dir",
            file=output_dir,
            field="output_dir",
        ) from error
    except (OSError, NotImplementedError):  # a disk that cannot be written, or has no locks
        yield
        return
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _content(images: ImageList) -> str:
    """Returns a digest of all that goes into the shards."""
    words = hashlib.sha256(images.fingerprint().encode())
    for row in range(len(images)):
        words.update(json.dumps(images.image(row)).encode())
    return words.hexdigest()[:32]


def _part(output_dir: Path, recipe: dict[str, object]) -> Path:
    """Makes the hidden folder to write into; finished shards of the same images stay in it."""
    part = output_dir.with_name(f".{output_dir.name}.part")
    made = read_recipe(part / RECORD)
    if part.exists() and made != recipe:
        if made is None and any(part.glob("[!.]*")):
            fix = "remove it, or name another output_dir"
            raise InputError("is in the way, and not ours", fix=fix, file=part)
        shutil.rmtree(part)
    part.mkdir(parents=True, exist_ok=True)
    write_text(part / RECORD, json.dumps(recipe))
    for left in part.glob(".*"):  # half a shard, of a run that was killed
        left.unlink()
    return part


def _shard_ends(byte_counts: Int64[np.ndarray, "I"], shard_bytes: int) -> list[int]:
    """Returns before which row each shard ends."""
    ends: list[int] = []
    room = shard_bytes
    for row, count in enumerate(byte_counts.tolist()):
        needed = count + _BESIDE_IMAGE
        if needed > room and row not in (0, *ends[-1:]):
            ends.append(row)
            room = shard_bytes
        room -= needed
    return [*ends, len(byte_counts)]


def _write_shard(images: ImageList, rows: range, file: Path, check_pixels: bool) -> None:
    with written_whole(file) as part, tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as shard:
        for row in rows:
            data, listed, place = images.read(row), images.image(row), images.place_of(row)
            header = read_header(io.BytesIO(data), place)
            if header.suffix not in SUFFIXES:
                fix = "write it again as jpg or png"
                raise InputError(f"has the format {header.suffix}", fix=fix, file=place)
            if check_pixels:
                decode_image(data, place)
            facts = {**listed._asdict(), "height": header.height, "width": header.width}
            _add(shard, f"{row:09d}.{header.suffix}", data)
            _add(shard, f"{row:09d}.json", json.dumps(facts, sort_keys=True).encode())


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a file without time, owner and whatever else could differ between two runs."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    shard.addfile(info, io.BytesIO(data))
