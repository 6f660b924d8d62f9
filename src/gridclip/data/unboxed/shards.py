"""Tar shards in WebDataset's layout, read by index: one pread an image, in any order.

A shard is a plain tar file; files of one name but for their ending make a sample: 000.jpg with
000.json, 000.txt (a caption) or 000.cls (a class). The index says where in which shard each picture
lies. `gridclip data pack` writes it beside its shards; for shards of other tools it is made at the
first opening, by reading their tar headers, and kept in the cache.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from gridclip.caches import cache_folder
from gridclip.data.columnar import ColumnarFile, digest, text_columns, write_columnar
from gridclip.data.unboxed.image_list import ImageList, ListedImage, fingerprint_of
from gridclip.data.unboxed.tar_scan import scan_shard
from gridclip.errors import InputError

INDEX = "index.safetensors"
FORM = "gridclip shard index 1"
_REMEDY = "make it with gridclip data pack"
_OPEN_AT_ONCE = 64
_RANGE = re.compile(r"^(.*)\{(\d+)\.\.(\d+)\}(.*)$")


class Shards(ImageList):
    """The pictures of tar shards.

    Args:
        place: What it was opened as.
        folder: Where the shards lie.
        index: Where the pictures lie in them.

    Raises:
        InputError: if a shard is missing, or has another length than the index says.
    """

    def __init__(self, place: Path, folder: Path, index: ColumnarFile) -> None:
        self.place, self.index = place, index
        listed: list[tuple[str, int]] = json.loads(index.header["shards"])
        self.files = [folder / name for name, _ in listed]
        for file, (_, count) in zip(self.files, listed, strict=True):
            found = file.stat().st_size if file.is_file() else None
            if found != count:
                state = "is missing" if found is None else f"has {found} bytes, not {count}"
                raise InputError(
                    f"the shard {state}, so it is not the one that was indexed",
                    fix=f"fetch it again, or remove {index.file} and pack again",
                    file=file,
                )
        self._map()

    def _map(self) -> None:
        self._shards = self.index.column("shards")
        self._offsets = self.index.column("offsets")
        self._texts = {name: self.index.texts(name) for name in ("paths", "names", "captions")}
        self._descriptors: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "index": self.index, "files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", {}).values():
            os.close(descriptor)

    @property
    def byte_counts(self) -> Int64[np.ndarray, "I"]:
        """Length of each picture."""
        return self.index.column("byte_counts")

    @property
    def sizes(self) -> Int64[np.ndarray, "I 2"]:
        """Height and width of each picture."""
        return self.index.column("sizes")

    def image(self, row: int) -> ListedImage:
        """Tell what is known of one image."""
        path, names, captions = (self._texts[key].of(row) for key in self._texts)
        return ListedImage(path, tuple(json.loads(names)), tuple(json.loads(captions)))

    def read(self, row: int) -> bytes:
        """Read the bytes of one picture."""
        shard, count = int(self._shards[row]), int(self.byte_counts[row])
        data = os.pread(self._descriptor(shard), count, int(self._offsets[row]))
        if len(data) != count:
            fix = "fetch the shard again"
            raise InputError("has become shorter", fix=fix, file=self.files[shard])
        return data

    def place_of(self, row: int) -> Path:
        """Name shard and path."""
        return self.files[self._shards[row]] / self._texts["paths"].of(row)

    def fingerprint(self) -> str:
        """As of the folder they were packed from; the index has it ready."""
        return self.index.header["fingerprint"]

    def _descriptor(self, shard: int) -> int:
        """Open a shard, and leave the last few open: opening costs a round trip on network disks.

        Reading by position shares nothing, so a forked worker may go on with the same descriptors.
        """
        if shard not in self._descriptors:
            if len(self._descriptors) >= _OPEN_AT_ONCE:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = os.open(self.files[shard], os.O_RDONLY)
        return self._descriptors[shard]


def open_shards(place: Path) -> Shards:
    """Open tar shards, by their index or, once, by reading their tar headers.

    Args:
        place: A folder with shards, a .tar file, or a range of them such as train-{000..127}.tar.

    Raises:
        InputError: if a shard is missing, cut short, compressed, or not of WebDataset's layout.
    """
    if (place / INDEX).is_file():
        return Shards(place, place, ColumnarFile(place / INDEX, FORM, _REMEDY))
    files = shard_files(place)
    states = [(str(file.resolve()), *_state(file)) for file in files]
    kept = cache_folder() / "shards" / f"{digest(FORM, states)}.safetensors"
    if not kept.is_file():
        write_index(files, kept)
    folder = place if place.is_dir() else place.parent
    return Shards(place, folder, ColumnarFile(kept, FORM, "open the shards again"))


def shard_files(place: Path) -> list[Path]:
    """List the tar files of a folder or a range, or the one that is named.

    Raises:
        InputError: if there is none, or one is missing.
    """
    found = _RANGE.match(place.name)
    if place.is_dir():
        files = sorted(file for file in place.glob("*.tar") if not file.name.startswith("."))
    elif found:
        before, first, last, after = found.groups()
        numbers = range(int(first), int(last) + 1)
        files = [place.parent / f"{before}{n:0{len(first)}d}{after}" for n in numbers]
    else:
        files = [place]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        what = f"{len(missing)} shards are missing: {', '.join(missing[:3])}"
        fix = "fetch them, or mend the range"
        raise InputError(what if missing else "there is no shard", fix=fix, file=place)
    return files


def write_index(files: Sequence[Path], index: Path) -> None:
    """Scan shards of one folder, and write where their pictures lie.

    Args:
        files: The shards, in order.
        index: Where to.

    Raises:
        InputError: as `open_shards`.
    """
    scanned = [scan_shard(file) for file in files]
    members = [member for found in scanned for member in found]
    if not members:
        fix = "give shards in WebDataset's layout: 000.jpg, 000.json, 001.jpg, ..."
        raise InputError("there is no picture in the shards", fix=fix, file=files[0])
    shards = np.repeat(np.arange(len(files), dtype=np.int32), [len(found) for found in scanned])
    columns = {
        "shards": shards,
        "offsets": np.array([member.offset for member in members]),
        "byte_counts": np.array([member.byte_count for member in members]),
        "sizes": np.array([member.size for member in members]),
        **text_columns("paths", [member.path for member in members]),
        **text_columns("names", [json.dumps(member.names) for member in members]),
        **text_columns("captions", [json.dumps(member.captions) for member in members]),
    }
    header = {
        "shards": json.dumps([(file.name, file.stat().st_size) for file in files]),
        "fingerprint": fingerprint_of((member.path, member.byte_count) for member in members),
    }
    write_columnar(index, FORM, header, columns)


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
