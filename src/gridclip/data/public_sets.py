"""The command that fetches LVIS and COCO, and unpacks them as the rows expect them.

Sizes and SHA-256 sums are those of TensorFlow Datasets (its files lvis/checksums.tsv and coco.txt,
Apache-2.0), because neither COCO nor LVIS publishes any. Each file of an archive has a sum of its
own too, which unpacking checks.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from gridclip.data.annotations.reader import read_annotations
from gridclip.io.errors import InputError
from gridclip.io.files import refuse_paths_outside, require_writable, write_text, written_whole
from gridclip.io.resumable import Wanted, fetch_resumable
from gridclip.io.tables import WholeTable, make_console, say

PublicSet = Literal["lvis", "coco", "minival"]

_COCO = "http://images.cocodataset.org"
_LVIS = "https://dl.fbaipublicfiles.com/LVIS"
_SPARE = 1 << 30  # bytes that stay free
_RECORD = ".fetched.json"
_MINIVAL = "minival_ids.json"


class Archive(NamedTuple):
    """A zip file, and what it becomes."""

    file: Wanted
    unpacked: int  # bytes of its files, about, before it is there

    @property
    def name(self) -> str:
        """Its name, the last of its address."""
        return self.file.address.rpartition("/")[2]


def _archive(address: str, size: int, unpacked: int, sha256: str) -> Archive:
    return Archive(Wanted(address, size, sha256), unpacked)


_TRAIN_IMAGES = _archive(
    f"{_COCO}/zips/train2017.zip",
    19_336_861_798,
    19_320_000_000,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
)
_VAL_IMAGES = _archive(
    f"{_COCO}/zips/val2017.zip",
    815_585_330,
    815_000_000,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
)
_COCO_BOXES = _archive(
    f"{_COCO}/annotations/annotations_trainval2017.zip",
    252_907_541,
    820_000_000,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)
_LVIS_TRAIN = _archive(
    f"{_LVIS}/lvis_v1_train.json.zip",
    350_264_821,
    1_200_000_000,
    "334a4caa374030a7817cf050364525e910f7960f9b6968cef47cffbf3893f8ba",
)
_LVIS_VAL = _archive(
    f"{_LVIS}/lvis_v1_val.json.zip",
    64_026_968,
    220_000_000,
    "5cae9a3c79aadb667550c2b5dcf7f4d86e059a41ec91ef690225b667e28e9ba5",
)

SETS: dict[PublicSet, tuple[Archive, ...]] = {
    "lvis": (_LVIS_VAL, _LVIS_TRAIN, _VAL_IMAGES, _TRAIN_IMAGES),
    "coco": (_COCO_BOXES, _VAL_IMAGES, _TRAIN_IMAGES),
    "minival": (_LVIS_VAL, _VAL_IMAGES),
}
"""The small archives first, so that what is wrong is found early."""


def get_command(
    name: PublicSet,
    folder: Path,
    *,
    list: bool = False,
    mirror: str | None = None,
    keep_archives: bool = False,
) -> None:
    """Fetch a public data set and unpack it; run again, it goes on where it stopped.

    lvis is LVIS v1 (with COCO's images), coco is COCO 2017, minival what evaluation on LVIS minival
    needs: LVIS's val file and val2017, and minival_ids.json, the ids of its images.

    Args:
        name: lvis, coco or minival.
        folder: Where to; rows look in data/lvis and data/coco.
        list: Print addresses, sizes and sums, and fetch nothing.
        mirror: Address of a folder that has the same archives; sums are checked all the same.
        keep_archives: Whether the archives stay, which takes twice the room.
    """
    archives = SETS[name]
    if mirror is not None:
        archives = tuple(_mirrored(archive, mirror) for archive in archives)
    if list:
        _print(name, archives)
        return
    get_archives(archives, folder, keep=keep_archives)
    if name in ("lvis", "minival"):
        write_minival_ids(folder)
    say(make_console(), f"{folder}: {name} is complete")


def _mirrored(archive: Archive, mirror: str) -> Archive:
    address = f"{mirror.rstrip('/')}/{archive.name}"
    return archive._replace(file=archive.file._replace(address=address))


def _print(name: PublicSet, archives: Sequence[Archive]) -> None:
    table = WholeTable(("address", "GB", "SHA-256"), left=("address", "SHA-256"), title=name)
    for archive in archives:
        size = archive.file.size
        table.add_row(
            archive.file.address,
            "?" if size is None else f"{size / 1e9:.2f}",
            archive.file.sha256 or "none published; every file's CRC",
        )
    console = make_console()
    console.print(table)
    say(console, f"room that it takes at most: {_room(archives, {}) / 1e9:.0f} GB")


def get_archives(archives: Sequence[Archive], folder: Path, *, keep: bool = False) -> None:
    """Fetches archives and unpacks them into a folder, one after the other.

    Args:
        archives: What to fetch.
        folder: Where to; what an earlier call has unpacked stays, and is not fetched again.
        keep: Whether archives stay beside what was in them.

    Raises:
        InputError: if the disk lacks room, an archive cannot be fetched, or is another one.
    """
    require_writable(folder / _RECORD)
    done = _done(folder)
    waiting = [archive for archive in archives if archive.name not in done]
    _require_room(waiting, folder, keep)
    for archive in waiting:
        file = folder / archive.name
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as shown:
            fetching = shown.add_task(f"fetching {archive.name}", total=archive.file.size)
            fetch_resumable(archive.file, file, progress=partial(_advance, shown, fetching))
            unpacking = shown.add_task(f"unpacking {archive.name}")
            unpack(file, folder, partial(_advance, shown, unpacking))
        done[archive.name] = archive.file.sha256 or ""
        write_text(folder / _RECORD, json.dumps(done))
        if not keep:
            file.unlink()


def _advance(shown: Progress, task: TaskID, here: int, whole: int | None = None) -> None:
    shown.update(task, completed=here, total=whole)  # None leaves the total as it is


def _done(folder: Path) -> dict[str, str]:
    """Returns the archives that were unpacked here, with their sums."""
    try:
        found = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _room(archives: Sequence[Archive], here: dict[str, int], *, keep: bool = False) -> int:
    """Returns the bytes that fetching and unpacking take at their most, beyond what is here."""
    most = used = 0
    for archive in archives:
        size = archive.file.size or archive.unpacked
        missing = max(size - here.get(archive.name, 0), 0)
        most = max(most, used + missing + archive.unpacked)
        used += archive.unpacked + (missing if keep else missing - size)
    return most


def _require_room(archives: Sequence[Archive], folder: Path, keep: bool) -> None:
    here = {
        archive.name: max(
            (file.stat().st_size for file in folder.glob(f"{archive.name}*")), default=0
        )
        for archive in archives
    }
    needed, free = _room(archives, here, keep=keep), shutil.disk_usage(folder).free
    if archives and needed + _SPARE > free:
        raise InputError(
            f"{needed / 1e9:.1f} GB are needed and one to spare, but {free / 1e9:.1f} GB are free",
            fix="make room, or name a folder on another disk",
            file=folder,
            field="folder",
        )


def unpack(
    file: Path, folder: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Unpacks a zip file; a file that is there with the right length is not written again.

    Args:
        file: The archive.
        folder: Where to; each file appears whole.
        progress: Called with the bytes unpacked, and all bytes.

    Raises:
        InputError: if it is no whole zip file, a sum in it is wrong, it leads out of the folder,
            or needs more room than there is.
    """
    fix = "remove it, and run the command again"
    try:
        with zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
            names = [each.filename for each in members]
            refuse_paths_outside(folder, names, source=file, field="members")
            whole, here = sum(each.file_size for each in members), 0
            if whole > shutil.disk_usage(folder).free + sum(
                map(_length, map(folder.joinpath, names))
            ):
                problem = f"unpacks to {whole / 1e9:.1f} GB, for which there is no room"
                raise InputError(problem, fix="make room", file=file)
            for each in members:
                target = folder / each.filename
                if _length(target) != each.file_size:
                    _unpack_member(archive, each, target)
                here += each.file_size
                progress(here, whole)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"is no whole zip file ({error})", fix=fix, file=file) from error


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    with archive.open(member) as packed, written_whole(target) as part, part.open("wb") as out:
        shutil.copyfileobj(packed, out, 1 << 20)  # checks the sum at the end


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def write_minival_ids(folder: Path) -> None:
    """Writes the ids of LVIS minival: the images of LVIS's val file that are COCO's val2017."""
    file = folder / "lvis_v1_val.json"
    found = read_annotations(file, folder="val2017", rules="validation")
    write_text(folder / _MINIVAL, json.dumps(sorted(found.image_ids.tolist())))
