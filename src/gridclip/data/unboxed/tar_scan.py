"""What lies where in a tar file: its headers are read, its pictures are not."""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gridclip.data.unboxed.image_list import SUFFIXES, is_picture, read_header
from gridclip.errors import InputError

_BLOCK = 512
# A sample's key ends at the first dot of the base name, as in WebDataset.
_KEY = re.compile(r"^((?:.*/|)[^./]+)\.([^/]*)$")
_AGAIN = "fetch or pack the shard again (plain .tar: unpack .tar.gz first)"
_WORDS = ("json", "txt", "cls")


class Member(NamedTuple):
    """One picture of a shard."""

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
    """List the pictures of a shard, in its order.

    Of a sample with several pictures (an image and its mask, say) the first in the order of
    `image_list.SUFFIXES` counts.

    Args:
        file: A tar file, not compressed, in WebDataset's layout.

    Raises:
        InputError: if it is cut short, a key comes twice, a sample has no picture, or a picture has
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
    """Gather the files of each key, which stand together."""
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
    pictures = [ending for ending in SUFFIXES if ending in sample.files]
    if not pictures:
        endings = ", ".join(sample.files)
        raise InputError(
            f"a sample has no picture, only {endings}",
            fix=f"give it a picture ({', '.join(SUFFIXES[:3])}, ...), or take it out",
            file=file,
            field=sample.key,
        )
    info = sample.files[pictures[0]]
    if info.sparse is not None or not is_picture(info.name):
        raise InputError("is stored sparsely", fix=_AGAIN, file=file, field=info.name)
    header = read_header(_opened(shard, info), file / info.name)
    said = _Words(
        **{
            ending: _opened(shard, sample.files[ending]).read()
            for ending in _WORDS
            if ending in sample.files
        }
    )
    facts = _facts(file, sample.key, said.json)
    return Member(
        path=str(facts.get("path") or f"{file.name}/{info.name}"),
        offset=info.offset_data,
        byte_count=info.size,
        size=(header.height, header.width),
        names=_texts(facts.get("names")) or _texts(_text(said.cls)),
        captions=_texts(facts.get("captions"))
        or _texts(facts.get("caption"))
        or _texts(_text(said.txt)),
    )


class _Words(NamedTuple):
    """What stands beside a picture."""

    json: bytes = b"{}"
    txt: bytes = b""
    cls: bytes = b""


def _facts(file: Path, key: str, content: bytes) -> dict[str, Any]:
    try:
        facts: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        fix = "mend it, or take it out of the shard"
        raise InputError(
            f"is no json ({error})", fix=fix, file=file, field=f"{key}.json"
        ) from error
    return facts if isinstance(facts, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    """Give what of a value is text, be it one or a list."""
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in values if isinstance(text, str) and text.strip())


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip()


def _opened(shard: tarfile.TarFile, info: tarfile.TarInfo) -> io.BufferedReader:
    opened = shard.extractfile(info)
    assert isinstance(opened, io.BufferedReader)  # it is a regular file
    return opened


def _require_end(file: Path, shard: tarfile.TarFile) -> None:
    """Find the empty block that ends a tar file.

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
    """Tell files that systems leave behind, and the notes of other tools, as WebDataset does."""
    base = name.rsplit("/", 1)[-1]
    return base.startswith(".") or (base.startswith("__") and base.endswith("__"))
