"""Draws what was found: a picture of each image, and a video of each video."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor

from gridclip.engine.detect.findings import Findings
from gridclip.engine.detect.sources import Frame, Source
from gridclip.io.errors import InputError
from gridclip.io.files import written_whole

Rgb = UInt8[np.ndarray, "_ _ 3"]

_SIDE = 512  # pixels: a smaller image is drawn larger, so that words fit in
_TINT = 0.45  # how much of a name's colour covers an object
_RATE = 25.0  # frames a second of a video that does not say


def stems(sources: Sequence[Source], output: Path) -> dict[Source, str]:
    """Returns what the files of each source begin with: no two alike, whatever the capitals.

    The second source of a name gets -2, and no drawing takes the place of an image that is given.
    """
    folder = output.resolve()
    files = [each.place for each in sources if isinstance(each.place, Path)]
    given = {each.stem.casefold() for each in files if each.parent.resolve() == folder}
    met: Counter[str] = Counter()  # how often a stem was met, so that a thousand alike are quick
    taken: set[str] = set()
    found: dict[Source, str] = {}
    for source in sources:
        first = _stem_of(source)
        stem = ""
        while not stem or stem.casefold() in taken or drawn(stem).casefold() in given:
            met[first.casefold()] += 1
            number = met[first.casefold()]
            stem = first + f"-{number}" * (number > 1)
        taken.add(stem.casefold())
        found[source] = stem
    return found


def drawn(stem: str) -> str:
    """Returns the name of a drawing, without its ending."""
    return f"{stem}-detected"


def _stem_of(source: Source) -> str:
    if isinstance(source.place, Path):
        stem = source.place.stem
    else:  # an address, or a camera
        name, _, ending = source.name.partition("?")[0].rpartition("/")[2].rpartition(".")
        stem = "".join(letter if letter.isalnum() else "-" for letter in name or ending)
    return stem.encode()[:200].decode(errors="ignore") or "image"  # names end at 255 bytes


class Drawings:
    """Writes a picture of each image at once, and a video of each video while it is read.

    A video is Matroska (.mkv), whose frames can be played whatever becomes of the process; an .mp4
    that was not ended cannot be.

    Args:
        output: Their folder.
        every: Of a video one frame in so many is given.
    """

    def __init__(self, output: Path, every: int) -> None:
        self.output, self.every = output, every
        self._video: tuple[Source, Any] | None = None

    def __enter__(self) -> "Drawings":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_video()

    def add(self, frame: Frame, stem: str, found: Findings) -> Path:
        """Draws one frame, and returns the file that it is in."""
        if frame.number is None:
            file = self.output / f"{drawn(stem)}.jpg"
            with written_whole(file) as part:
                Image.fromarray(with_boxes(frame.pixels, found)).save(part, "JPEG", quality=90)
            return file
        file, picture = self.output / f"{drawn(stem)}.mkv", with_boxes(frame.pixels, found)
        if self._video is None or self._video[0] != frame.source:
            self._end_video()
            rate = (frame.rate if 0 < frame.rate < 1000 else _RATE) / self.every
            self._video = frame.source, _opened(file, rate, picture.shape[1], len(picture))
        self._video[1].write(picture[:, :, ::-1])
        return file

    def _end_video(self) -> None:
        if self._video is not None:
            self._video[1].release()
        self._video = None


def _opened(file: Path, rate: float, width: int, height: int) -> Any:  # noqa: ANN401 - of cv2
    """Returns a writer of a video; its rate is in frames per second.

    Raises:
        InputError: if it cannot be written.
    """
    import cv2

    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, code, rate, (width, height))
    if not writer.isOpened():
        fix = "give --pictures false"
        raise InputError("the video cannot be written", fix=fix, file=file)
    return writer


def with_boxes(pixels: Rgb, found: Findings) -> Rgb:
    """Returns an image with masks, boxes, names and scores drawn on it; a small one is enlarged."""
    from gridclip.data.drawing import Label, draw  # which needs torch

    image = Image.fromarray(_with_masks(pixels, found))
    zoom = max(1, _SIDE // max(image.size))
    size = (image.width * zoom, image.height * zoom)
    large = image if zoom == 1 else image.resize(size, Image.Resampling.NEAREST)
    labels = [
        Label((x1 * zoom, y1 * zoom, x2 * zoom, y2 * zoom), f"{name} {score:.2f}")
        for name, score, (x1, y1, x2, y2) in found
    ]
    return np.asarray(draw(large, labels))


def _with_masks(pixels: Rgb, found: Findings) -> Rgb:
    """Returns an image whose objects are tinted in the colours of their names, the best last."""
    if not found.masks:
        return pixels
    from gridclip.data.drawing import colour_of
    from gridclip.ops.rle import decode

    tinted = pixels.copy()
    for each, code in reversed([*zip(found, found.masks, strict=True)]):
        inside = decode(code, (found.height, found.width)) == 1
        colour = np.array(ImageColor.getrgb(colour_of(each.name)))
        tinted[inside] = (_TINT * colour + (1 - _TINT) * pixels[inside]).astype(np.uint8)
    return tinted
