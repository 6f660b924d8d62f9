"""Tar shards in WebDataset's layout, read by index: one pread an image, in any order.

A shard is a plain tar file; files of one name but for their ending make a sample: 000.jpg with
000.json, 000.txt (a caption) or 000.cls (a class). The index says where in which shard each image
lies. `gridclip data pack` writes it beside its shards; for shards of other tools it is made at the
first opening, by reading their tar headers, and kept in the cache.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from gridclip.data.images.decode import SUFFIXES, is_image, read_header
from gridclip.data.images.image_list import ImageList, ListedImage, fingerprint_of
from gridclip.io.column_store import ColumnarFile, digest, text_columns, write_columnar
from gridclip.io.errors import InputError
from gridclip.io.files import cache_folder, require_writable
from gridclip.io.json_table import texts_of
from gridclip.io.text import decode_text, ending

_BLOCK = 512
# A sample's key ends at the first dot of the base name, as in WebDataset.
_KEY = re.compile(r"^((?:.*/|)[^./]+)\.([^/]*)$")
_AGAIN = "fetch or pack the shard again (plain .tar: unpack .tar.gz first)"
_WORDS = ("json", "txt", "cls")


class Member(NamedTuple):
    """One image of a shard."""

    path: str  # as its json says, else shard/member
    offset: int  # of its bytes in the shard
    byte_count: int
    size: tuple[int, int]  # height, width
    names: tuple[str, ...]
    captions: tuple[str, ...]


class _Sample(NamedTuple):
    """The files of one key."""

    key: str
    files: dict[str, tarfile.TarInfo]  # by ending


def scan_shard(file: Path) -> list[Member]:
    """Lists the images of a shard, in its order.

    Of a sample with several images (an image and its mask, say) the first in the order of
    `decode.SUFFIXES` counts.

    Args:
        file: A tar file, not compressed, in WebDataset's layout.

    Raises:
        InputError: if it is cut short, a key comes twice, a sample has no image, or an image has
            no readable header.
    """
    try:
        with tarfile.open(file, "r:") as shard:
            members = [_member(file, shard, sample) for sample in _samples(file, shard)]
            _require_end(file, shard)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"is no whole tar file ({error})", fix=_AGAIN, file=file) from error
    return members


def _samples(file: Path, shard: tarfile.TarFile) -> Iterator[_Sample]:
    """Yields the files of each key, which follow each other."""
    seen: set[str] = set()
    sample = _Sample("", {})
    for info in shard:
        found = _KEY.match(info.name)
        if not info.isreg() or not found or _is_hidden(info.name):
            continue
        key, ending = found[1], found[2].lower()
        if key != sample.key:
            if sample.files:
                yield sample
            if key in seen:
                raise _twice(file, key)
            seen.add(key)
            sample = _Sample(key, {})
        if ending in sample.files:
            raise _twice(file, info.name)
        sample.files[ending] = info
    if sample.files:
        yield sample


def _member(file: Path, shard: tarfile.TarFile, sample: _Sample) -> Member:
    images = [ending for ending in SUFFIXES if ending in sample.files]
    if not images:
        endings = ", ".join(sample.files)
        raise InputError(
            f"a sample has no image, only {endings}",
            fix=f"give it an image ({', '.join(SUFFIXES[:3])}, ...), or take it out",
            file=file,
            field=sample.key,
        )
    info = sample.files[images[0]]
    if info.sparse is not None or not is_image(info.name):
        raise InputError("is stored sparsely", fix=_AGAIN, file=file, field=info.name)
    header = read_header(_opened(shard, info), file / info.name)
    words = {
        kind: decode_text(_opened(shard, each).read(), file, each.name).strip()
        for kind in _WORDS
        if (each := sample.files.get(kind))
    }
    facts = _facts(file, sample.key, words.get("json", "{}"))
    return Member(
        path=str(facts.get("path") or f"{file.name}/{info.name}"),
        offset=info.offset_data,
        byte_count=info.size,
        size=(header.height, header.width),
        names=texts_of(facts.get("names")) or texts_of(words.get("cls")),
        captions=texts_of(facts.get("captions"))
        or texts_of(facts.get("caption"))
        or texts_of(words.get("txt")),
    )


def _facts(file: Path, key: str, content: str) -> dict[str, Any]:
    try:
        facts: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        fix = "mend it, or take it out of the shard"
        raise InputError(
            f"is no json ({error})", fix=fix, file=file, field=f"{key}.json"
        ) from error
    return facts if isinstance(facts, dict) else {}


def _opened(shard: tarfile.TarFile, info: tarfile.TarInfo) -> io.BufferedReader:
    opened = shard.extractfile(info)
    assert isinstance(opened, io.BufferedReader)  # it is a regular file
    return opened


def _require_end(file: Path, shard: tarfile.TarFile) -> None:
    """Checks for the empty block that ends a tar file.

    Without this, a shard that was cut between two members, or whose next header is damaged, would
    pass for a smaller one: tarfile stops there without a word.
    """
    with file.open("rb") as opened:
        opened.seek(shard.offset)
        if opened.read(_BLOCK) != bytes(_BLOCK):
            raise InputError("is cut short or damaged: its end is missing", fix=_AGAIN, file=file)


def _twice(file: Path, key: str) -> InputError:
    fix = "give each sample another key, and let the files of one stand together"
    return InputError("comes twice in the shard", fix=fix, file=file, field=key)


def _is_hidden(name: str) -> bool:
    """Returns whether a file is of the system, or a note of another tool, as in WebDataset."""
    base = name.rsplit("/", 1)[-1]
    return base.startswith(".") or (base.startswith("__") and base.endswith("__"))


INDEX = "index.safetensors"
FORM = "gridclip shard index 1"
_REMEDY = "make it with gridclip data pack"
_OPEN_AT_ONCE = 64
_RANGE = re.compile(r"^(.*)\{(\d+)\.\.(\d+)\}(.*)$")


class Shards(ImageList):
    """The images of tar shards.

    Args:
        place: What it was opened as.
        folder: Where the shards lie.
        index: Where the images lie in them.

    Raises:
        InputError: if a shard is missing, or has another length than the index says.
    """

    def __init__(self, place: Path, folder: Path, index: ColumnarFile) -> None:
        self.place, self.index = place, index
        listed = _listed_shards(index)
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
        self._require_inside(np.array([count for _, count in listed]))

    def _map(self) -> None:
        self._shards = self.index.column("shards", "I", "i")
        self._offsets = self.index.column("offsets", "I", "i")
        self._texts = {name: self.index.texts(name, "I") for name in ("paths", "names", "captions")}
        self._descriptors: dict[int, int] = {}

    def _require_inside(self, lengths: Int64[np.ndarray, "F"]) -> None:
        """Refuses an index whose images do not all lie in its shards; F shards have these bytes."""
        shards, offsets, counts = self._shards, self._offsets, self.byte_counts
        known = (shards >= 0) & (shards < len(lengths)) & (offsets >= 0) & (counts >= 0)
        inside = known & (offsets <= lengths[np.where(known, shards, 0)] - counts)
        if not inside.all():
            row = int(np.flatnonzero(~inside)[0])
            raise InputError(
                f"image {row} would lie outside its shard",
                fix="remove the index, and open or pack the shards again",
                file=self.index.file,
            )

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
        """Length of each image."""
        return self.index.column("byte_counts", "I", "i")

    @property
    def sizes(self) -> Int64[np.ndarray, "I 2"]:
        """Height and width of each image."""
        return self.index.column("sizes", "I 2", "i")

    def image(self, row: int) -> ListedImage:
        """Returns path, classes and captions of one image."""
        path, names, captions = (self._texts[key].of(row) for key in self._texts)
        try:
            return ListedImage(path, tuple(json.loads(names)), tuple(json.loads(captions)))
        except (ValueError, TypeError, RecursionError) as error:
            fix = "remove the index, and open or pack the shards again"
            raise InputError(
                f"says of image {row} what is no list", fix=fix, file=self.index.file
            ) from error

    def read(self, row: int) -> bytes:
        """Reads the bytes of one image."""
        shard, count = int(self._shards[row]), int(self.byte_counts[row])
        data = os.pread(self._descriptor(shard), count, int(self._offsets[row]))
        if len(data) != count:
            fix = "fetch the shard again"
            raise InputError("has become shorter", fix=fix, file=self.files[shard])
        return data

    def place_of(self, row: int) -> Path:
        """Returns the shard and the path in it."""
        return self.files[self._shards[row]] / self._texts["paths"].of(row)

    def fingerprint(self) -> str:
        """Returns that of the folder that was packed, which the index has."""
        return self.index.header["fingerprint"]

    def _descriptor(self, shard: int) -> int:
        """Opens a shard, and leaves the last 64 open: opening costs a round trip on network disks.

        Reading by position shares nothing, so a forked worker may go on with the same descriptors.
        """
        if shard not in self._descriptors:
            if len(self._descriptors) >= _OPEN_AT_ONCE:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = os.open(self.files[shard], os.O_RDONLY)
        return self._descriptors[shard]


def _listed_shards(index: ColumnarFile) -> list[tuple[str, int]]:
    """Returns name and length of each shard of an index, all of which lie in one folder.

    Raises:
        InputError: if it names something else.
    """
    try:
        listed = [(str(name), int(count)) for name, count in json.loads(index.header["shards"])]
    except (ValueError, TypeError, RecursionError):
        listed = []
    if not listed or any(Path(name).name != name for name, _ in listed):
        raise InputError(
            f"names no files beside it: {index.header['shards']:.80}",
            fix="remove it, and open or pack the shards again",
            file=index.file,
            field="shards",
        )
    return listed


def open_shards(place: Path) -> Shards:
    """Opens tar shards, by their index or, once, by reading their tar headers.

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
        require_writable(kept, field="GRIDCLIP_CACHE")  # their index is mapped from there
        write_index(files, kept)
    folder = place if place.is_dir() else place.parent
    return Shards(place, folder, ColumnarFile(kept, FORM, "open the shards again"))


def is_shard(file: Path) -> bool:
    """Returns whether a file is called as shards are."""
    return ending(file) == ".tar" and not file.name.startswith(".")


def shard_files(place: Path) -> list[Path]:
    """Lists the tar files of a folder or a range, or the one that is named.

    Raises:
        InputError: if there is none, or one is missing.
    """
    found = _RANGE.match(place.name)
    if place.is_dir():
        files = sorted(filter(is_shard, place.iterdir()))
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
    """Scans shards of one folder, in order, and writes where their images lie.

    Raises:
        InputError: as `open_shards`.
    """
    scanned = [scan_shard(file) for file in files]
    members = [member for found in scanned for member in found]
    if not members:
        fix = "give shards in WebDataset's layout: 000.jpg, 000.json, 001.jpg, ..."
        raise InputError("there is no image in the shards", fix=fix, file=files[0])
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
