"""Picture files: read as RGB, and checked against the annotation file before training."""

import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gridclip.data.annotations.lvis import Annotations
from gridclip.errors import InputError

# Opening every file of a large data set takes minutes on a network disk, so only sets up to this
# many pictures have each header read before training; others are checked as they are read.
HEADERS_READ = 5_000

_END_OF_JPEG = b"\xff\xd9"
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read_picture(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture as RGB: grey and palette are spread, CMYK converted, transparency dropped.

    The pixels are taken as stored: an EXIF orientation is not applied, because the boxes of COCO
    and LVIS refer to the stored pixels (as in torchvision's CocoDetection and pycocotools).

    Args:
        file: Any format that PIL reads, 8 bits a channel.

    Raises:
        InputError: if it is missing, cut short, corrupt, or of more than 8 bits a channel.
    """
    with _faults_named(file):
        content = file.read_bytes()
    return decode_picture(content, file)


def decode_picture(content: bytes, place: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode the bytes of a picture file, as `read_picture` does.

    Args:
        content: The bytes.
        place: Where they come from, for the message.

    Raises:
        InputError: if they are cut short, corrupt, or of more than 8 bits a channel.
    """
    with _faults_named(place), Image.open(io.BytesIO(content)) as picture:
        mode = picture.mode
        if picture.format == "JPEG" and mode == "RGB" and content.endswith(_END_OF_JPEG):
            pixels = _decode_jpeg(content)
        else:
            pixels = np.array(picture if mode == "RGB" else picture.convert("RGB"))
    if mode in _DEEP_MODES:
        raise InputError(
            f"the picture has more than 8 bits a channel (mode {mode})",
            fix="write it again with 8 bits a channel",
            file=place,
        )
    return pixels


def _decode_jpeg(content: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a whole JPEG of three channels with OpenCV: the pixels of PIL, in less time.

    One that is cut short must not come here, because OpenCV fills it up with grey.
    """
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise ValueError("broken JPEG data")
    decoded: UInt8[np.ndarray, "h w 3"] = pixels
    return decoded


def check_pictures(annotations: Annotations, folder: Path) -> None:
    """Check, before training, that every picture is there and as large as the file says.

    Existence is checked for all, by listing folders; headers of sets up to HEADERS_READ pictures.

    Args:
        annotations: The images to look for.
        folder: What their paths are relative to.

    Raises:
        InputError: with the count and the first names.
    """
    missing = [path for path in _unlisted(annotations.paths.tolist(), folder) if not _there(path)]
    if missing:
        names = ", ".join(str(path) for path in missing[:3])
        raise InputError(
            f"{len(missing)} of {len(annotations.paths)} pictures do not exist: {names!r}"
            + (", ..." if len(missing) > 3 else ""),
            fix=f"put them there, or mend `images` (now {str(folder)!r}) or the file_name entries",
            file=annotations.file,
            field="images",
        )
    if len(annotations.paths) > HEADERS_READ:
        return
    for path, size in zip(annotations.paths.tolist(), annotations.sizes.tolist(), strict=True):
        file = folder / path
        with _faults_named(file), Image.open(file) as picture:
            width, height = picture.size
        require_size(file, (height, width), tuple(size), annotations.file)


def require_size(
    file: Path, found: tuple[int, ...], listed: tuple[int, ...], annotation_file: Path
) -> None:
    """Refuse a picture of another size than listed; both are height, width.

    Raises:
        InputError: naming both.
    """
    if found == listed:
        return
    turned = " (turned by EXIF? boxes must refer to the stored pixels)"
    hint = turned if found == listed[::-1] else ""
    raise InputError(
        f"is {found[1]} x {found[0]}, but {annotation_file} says {listed[1]} x {listed[0]}{hint}",
        fix="give the picture that was annotated, or mend width, height and boxes",
        file=file,
    )


def _unlisted(paths: list[str], folder: Path) -> Iterator[Path]:
    """Give the paths that a listing of their folders does not show: few calls, however many."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[(folder / path).parent].append(folder / path)
    for parent, files in folders.items():
        try:
            names = {entry.name for entry in parent.iterdir()}
        except (OSError, ValueError):
            names = set()
        yield from (file for file in files if file.name not in names)


def _there(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


@contextmanager
def _faults_named(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # PIL's readers raise whatever their format's parser does
        raise InputError(
            f"the picture cannot be read ({type(error).__name__}: {error})",
            fix="fetch or write it again, or take it out of the annotation file",
            file=file,
        ) from error
