"""What `gridclip detect` searches: images, folders, patterns, videos, a camera, addresses.

All become one stream of frames, in the order in which they were given. What cannot be read takes
its place in the stream and stops nothing.
"""

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from jaxtyping import UInt8
from numpy import ndarray

from gridclip.data.images.decode import is_image, read_upright
from gridclip.io.downloads import download, is_address, require_web
from gridclip.io.errors import InputError

VIDEOS = ("mp4", "mov", "avi", "mkv", "webm", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp")
"""Endings of video files; not .ts, which is code as well."""

Kind = Literal["image", "video", "camera"]


@dataclass(frozen=True)
class Source:
    """One thing that is searched.

    Args:
        name: What the results call it: the file or the address as it was given, or "camera 0".
        kind: Whether it is one image or many.
        place: Its file, or the number of the camera; None: the name is an address.
    """

    name: str
    kind: Kind
    place: Path | int | None


class Frame(NamedTuple):
    """An image to search."""

    source: Source
    pixels: UInt8[ndarray, "_ _ 3"]  # RGB, upright
    number: int | None = None  # of a video's frame, from 0
    rate: float = 0.0  # of a video, frames a second
    turned: bool = False  # whether the file stores it otherwise

    @property
    def name(self) -> str:
        """What the results call it: of a video its name, # and the number of the frame."""
        return self.source.name + ("" if self.number is None else f"#{self.number}")


class Unreadable(NamedTuple):
    """What could not be read, and why."""

    source: Source
    problem: str


def planned(given: Sequence[str], output: Path) -> list[Source]:
    """Returns what is to be searched, each once; folders and patterns are looked up now.

    Args:
        given: Image and video files; folders, with all folders in them; patterns such as
            "photos/**/*.jpg"; numbers of cameras; addresses of http or https.
        output: The folder of the results; its files are not searched as part of another folder.

    Raises:
        InputError: for a folder or pattern without images, or another kind of address.
    """
    sources = [source for each in given for source in _expanded(each, output.resolve())]
    return [*dict.fromkeys(sources)]


def _expanded(given: str, output: Path) -> Iterable[Source]:
    if is_address(given):
        require_web(given, field="images")
        return [Source(given, _kind_of(urlsplit(given).path), None)]
    path = Path(given)
    if os.path.isdir(path):  # noqa: PTH112 - Path's raises for a name that no file can have
        searched = path.resolve()
        within = output != searched and output.is_relative_to(searched)
        return _files(path.rglob("*"), given, path, output if within else None)
    if not os.path.exists(path):  # noqa: PTH110 - as well
        if given.isdecimal():
            return [Source(f"camera {int(given)}", "camera", int(given))]
        if glob.has_magic(given):
            found = glob.iglob(given, recursive=True)  # noqa: PTH207 - absolute ones too
            return _files(map(Path, found), given)
    return [Source(str(path), _kind_of(path.name), path)]


def _files(
    found: Iterable[Path], given: str, root: Path | None = None, without: Path | None = None
) -> list[Source]:
    """Returns the images and videos among files, sorted; hidden folders of the root hold none.

    Raises:
        InputError: if there is none.
    """
    files = sorted(
        file
        for file in found
        if (is_image(file.name) or _is_video(file.name))
        and not (root and any(p.startswith(".") for p in file.relative_to(root).parts[:-1]))
        and file.is_file()
        and not (without is not None and file.resolve().is_relative_to(without))
    )
    if not files:
        fix = "give files that end in .jpg, .png, .mp4 or the like, or their folder"
        raise InputError("there is no image or video", fix=fix, file=given, field="images")
    return [Source(str(file), _kind_of(file.name), file) for file in files]


def _is_video(name: str) -> bool:
    return not name.startswith(".") and name.rpartition(".")[2].lower() in VIDEOS


def _kind_of(name: str) -> Kind:
    return "video" if _is_video(name.rpartition("/")[2]) else "image"


def count(sources: Sequence[Source], every: int) -> int | None:
    """Returns how many frames there are, as far as files say; None if that is open."""
    total = 0
    for source in sources:
        if source.kind == "image":
            total += 1
        elif not isinstance(source.place, Path):
            return None
        else:
            with _opened(source.place) as capture:
                import cv2

                total += -(-max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) // every)
    return total


def frames(
    sources: Sequence[Source], *, every: int, download_mb: float
) -> Iterator[Frame | Unreadable]:
    """Yields the frames of all sources, read when they are wanted.

    Args:
        sources: What is searched.
        every: Of videos and cameras only one frame in so many, from the first.
        download_mb: Megabytes that an address may have.
    """
    for source in sources:
        try:
            yield from _frames_of(source, every, download_mb)
        except InputError as error:
            named = source.name in str(error)  # what was fetched has another name by then
            yield Unreadable(source, str(error) if named else f"{source.name}: {error}")


def _frames_of(source: Source, every: int, download_mb: float) -> Iterator[Frame]:
    with _at_hand(source, download_mb) as place:
        if source.kind == "image" and isinstance(place, Path):
            pixels, turned = read_upright(place)
            yield Frame(source, pixels, turned=turned)
        else:
            yield from _film(source, place, every)


@contextmanager
def _at_hand(source: Source, download_mb: float) -> Iterator[Path | int]:
    """Yields the file or camera; what an address holds is fetched, each time anew, and removed."""
    if source.place is not None:
        yield source.place
        return
    with tempfile.TemporaryDirectory(prefix="gridclip-detect-") as folder:
        file = Path(folder) / "fetched"
        download(source.name, file, field="images", most=int(download_mb * 1e6))
        yield file


def _film(source: Source, place: Path | int, every: int) -> Iterator[Frame]:
    """Yields the frames of a video or camera, turned upright as it says.

    Raises:
        InputError: if there is none.
    """
    import cv2

    number = 0
    with _opened(place) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        while capture.grab():
            if number % every == 0:
                read, pixels = capture.retrieve()
                if not read:
                    break
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                yield Frame(source, pixels, number, rate)
            number += 1
    if not number:
        fix = "see whether another program can play it"
        raise InputError(f"no frame of the {source.kind} can be read", fix=fix, file=source.name)


@contextmanager
def _opened(place: Path | int) -> Iterator[Any]:
    import cv2

    if isinstance(place, int):
        capture = cv2.VideoCapture(place)
    else:  # by ffmpeg alone: other readers take a number in a name for one of many files
        capture = cv2.VideoCapture(str(place), cv2.CAP_FFMPEG)
    try:
        yield capture
    finally:
        capture.release()
