"""Image files: their pixels as RGB, their headers, and what is wrong with them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from gridclip.io.errors import InputError

SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif")
"""Endings of image files, the one to take first where a sample of a shard has several."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""PIL's names of the formats that are read, whatever a file's name ends in. PIL knows more; one of
them, PostScript, is a program, which another program would run."""

_SUFFIX_OF = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
_END_OF_JPEG = b"\xff\xd9"
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB: grey and palette expanded, CMYK converted, transparency dropped.

    The pixels are taken as stored: an EXIF orientation is not applied, because the boxes of COCO
    and LVIS refer to the stored pixels (as in torchvision's CocoDetection and pycocotools).

    Args:
        file: Any format of FORMATS, 8 bits a channel, of at most 179 million pixels (PIL's limit,
            above which a small file may unpack to all memory).

    Raises:
        InputError: if it is missing, cut short, corrupt, too large, or of more than 8 bits a
            channel.
    """
    with reading_faults(file):
        content = file.read_bytes()
    return decode_image(content, file)


class Photograph(NamedTuple):
    """An image as viewers show it."""

    pixels: UInt8[np.ndarray, "h w 3"]  # RGB
    turned: bool  # whether it is stored otherwise: turned or mirrored


def read_upright(file: Path) -> Photograph:
    """Reads an image as `read_image` does, and turns it as its EXIF orientation says.

    For photographs that nobody has annotated: cameras store them as the sensor lay.

    Raises:
        InputError: as `read_image`.
    """
    with reading_faults(file):
        content = file.read_bytes()
    pixels, orientation = _decode(content, file)
    if orientation not in range(2, 9):
        return Photograph(pixels, turned=False)
    stored = Image.fromarray(pixels)
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    return Photograph(np.asarray(ImageOps.exif_transpose(stored)), turned=True)


def decode_image(content: bytes, place: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the bytes of an image file, as `read_image` does; `place` is for the message.

    Raises:
        InputError: if they are cut short, corrupt, or of more than 8 bits a channel.
    """
    return _decode(content, place)[0]


def _decode(content: bytes, place: Path) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """Returns the pixels as they are stored, and the EXIF orientation that applies to them."""
    with reading_faults(place), _opened(io.BytesIO(content)) as image:
        if image.format == "JPEG" and image.mode == "RGB" and content.endswith(_END_OF_JPEG):
            pixels = _decode_jpeg(content)
        else:
            pixels = rgb_of(image, place)
        return pixels, _orientation(image)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image that was read, 1 to 8; 1 where there is none.

    PIL has applied that of a TIFF file by then, for which it is a part of the format.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of a broken block PIL raises what its parser does; viewers ignore it
        return 1


def rgb_of(image: Image.Image, place: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of a PIL image as RGB; `place` is for the message.

    Raises:
        InputError: if it cannot be read, or has more than 8 bits a channel.
    """
    if image.mode in _DEEP_MODES:
        raise InputError(
            f"the image has more than 8 bits a channel (mode {image.mode})",
            fix="write it again with 8 bits a channel",
            file=place,
        )
    with reading_faults(place):
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _decode_jpeg(content: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a whole JPEG of three channels with OpenCV: the pixels of PIL, in less time.

    One that is cut short must not come here, because OpenCV fills it up with grey.
    """
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise ValueError("broken JPEG data")
    decoded: UInt8[np.ndarray, "h w 3"] = pixels
    return decoded


class ImageHeader(NamedTuple):
    """What the first bytes of an image file say."""

    height: int
    width: int
    suffix: str  # the ending that its format, whatever its name, should have


def read_header(opened: io.BufferedIOBase | Path, place: Path) -> ImageHeader:
    """Reads size and format of an image, without its pixels.

    Raises:
        InputError: if it is no image.
    """
    with reading_faults(place), _opened(opened) as image:
        width, height = image.size
        format = str(image.format)
    return ImageHeader(height, width, _SUFFIX_OF.get(format, format.lower()))


def _opened(source: Any) -> Image.Image:  # noqa: ANN401 - a path, or a file of bytes
    """Returns an image of a format that is read, of which only the header is read so far."""
    return Image.open(source, formats=_readable())


@cache
def _readable() -> list[str]:
    Image.init()  # of what this PIL was built with
    return [each for each in FORMATS if each in Image.OPEN]


def is_image(name: str) -> bool:
    """Returns whether a name ends as images do and is not hidden."""
    base = name.rsplit("/", 1)[-1]
    return not base.startswith(".") and base.rsplit(".", 1)[-1].lower() in SUFFIXES


def require_size(
    file: Path, found: tuple[int, ...], listed: tuple[int, ...], annotation_file: Path
) -> None:
    """Refuses an image of another size than listed; both are height, width.

    Raises:
        InputError: naming both.
    """
    if found == listed:
        return
    turned = " (turned by EXIF? boxes must refer to the stored pixels)"
    hint = turned if found == listed[::-1] else ""
    raise InputError(
        f"is {found[1]} x {found[0]}, but {annotation_file} says {listed[1]} x {listed[0]}{hint}",
        fix="give the image that was annotated, or mend width, height and boxes",
        file=file,
    )


@contextmanager
def reading_faults(file: str | Path) -> Iterator[None]:
    """Raises any error of an image's reader as an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # PIL's readers raise whatever their format's parser does
        raise InputError(
            f"the image cannot be read ({type(error).__name__}: {error})",
            fix="fetch or write it again, or take it out of the data set",
            file=file,
        ) from error
