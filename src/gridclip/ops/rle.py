"""Masks of whole images as run-length codes: what annotation and results files say of objects.

A code is COCO's compressed form, bytes of runs in column order, and goes with the height and width
of its image. hotcoco writes and reads it, and turns polygons into it, as pycocotools does to the
bit.
"""

import math
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Bool, Float, UInt8

Size = tuple[int, int]
"""Height and width of an image, in pixels."""

_RUNS = 2**32  # pixels that a code can count
_POLYGONS = "polygons: lists of x, y of three points or more, in pixels of the image"
_CODE = 'a code: {"size": [height, width], "counts": text or a list of runs}'


def encode(pixels: Bool[np.ndarray, "h w"], corner: tuple[int, int], size: Size) -> bytes:
    """Returns the code of a mask that is given in a window of its image.

    Args:
        pixels: Of the window.
        corner: x and y of the window's left upper pixel.
        size: Of the image.
    """
    import hotcoco

    (height, width), (left, top) = pixels.shape, corner
    image = np.zeros(size, dtype=np.uint8, order="F")  # in the order of the runs
    image[top : top + height, left : left + width] = pixels
    counts: bytes = hotcoco.mask.encode(image)["counts"]
    return counts


def decode(code: bytes, size: Size) -> UInt8[np.ndarray, "h w"]:
    """Returns 1 where the object is in the image, else 0."""
    import hotcoco

    image: UInt8[np.ndarray, "h w"] = hotcoco.mask.decode({"size": size, "counts": code})
    return image


def grids(
    codes: list[bytes], boxes: Float[np.ndarray, "T 4"], size: Size, side: int
) -> UInt8[np.ndarray, "T side side"]:
    """Returns each mask on a grid over its box: 0 and 1 of the pixels in the middles of cells.

    Args:
        codes: Of the objects.
        boxes: xyxy, pixels of the image, within it.
        size: Of the image.
        side: Cells along one side of a grid.
    """
    found = np.empty((len(codes), side, side), dtype=np.uint8)
    places = (np.arange(side) + 0.5) / side
    for grid, code, (x1, y1, x2, y2) in zip(found, codes, boxes.tolist(), strict=True):
        rows = (y1 + places * (y2 - y1)).astype(np.int64).clip(max=size[0] - 1)
        columns = (x1 + places * (x2 - x1)).astype(np.int64).clip(max=size[1] - 1)
        grid[:] = decode(code, size)[np.ix_(rows, columns)]
    return found


def mask_code(segmentation: object, size: Size) -> bytes:
    """Returns the code of what an annotation file says under `segmentation`.

    Args:
        segmentation: Polygons or a code; or the json text of it.
        size: Of the image.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if isinstance(segmentation, msgspec.Raw):
        segmentation = msgspec.json.decode(segmentation)
    if isinstance(segmentation, dict):
        code, own = read_code(segmentation)
        if own != size:
            raise ValueError(f"is of an image of {own[0]} x {own[1]}, not {size[0]} x {size[1]}")
        return code
    if not isinstance(segmentation, list):
        raise ValueError(f"is neither {_POLYGONS}; nor {_CODE}")
    return _filled(segmentation, size)


def read_code(value: object) -> tuple[bytes, Size]:
    """Returns a code, compressed or not, as compressed bytes and the size of its image.

    Raises:
        ValueError: saying what is wrong with it.
    """
    found: dict[str, Any] = value if isinstance(value, dict) else {}
    size: Any = found.get("size")
    counts = found.get("counts")
    if not _is_size(size) or not isinstance(counts, str | list):
        raise ValueError(f"is not {_CODE}")
    height, width = size
    if isinstance(counts, list) and not all(map(_is_count, counts)):
        raise ValueError("has counts that are no whole numbers from 0 on")
    total = _pixels(counts.encode()) if isinstance(counts, str) else sum(counts)
    if total != height * width or total >= _RUNS:
        problem = "has counts that are cut short, or not those of an image of its size"
        raise ValueError(f"{problem}, {height} x {width}")
    code = counts.encode() if isinstance(counts, str) else _compressed(counts, (height, width))
    return code, (height, width)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _RUNS


def _compressed(counts: list[int], size: Size) -> bytes:
    import hotcoco

    code: bytes = hotcoco.mask.fr_py_objects({"size": [*size], "counts": counts}, *size)["counts"]
    return code


def _filled(polygons: list[Any], size: Size) -> bytes:
    """Returns the code of what any of the polygons encloses."""
    import hotcoco

    shapes = [part for part in polygons if not (isinstance(part, list) and len(part) in (2, 4))]
    if not shapes:  # points and lines enclose nothing, and COCO has some beside good polygons
        raise ValueError("encloses nothing")
    reach = 2 * max(size)
    for part in shapes:
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
            raise ValueError(f"is not {_POLYGONS}")
        if not all(type(each) in (int, float) and math.isfinite(each) for each in part):
            raise ValueError("has a coordinate that is no finite number")
        if max(map(abs, part)) > reach:
            raise ValueError("has a coordinate far outside of its image")
    found = hotcoco.mask.fr_py_objects(shapes, *size)
    code: bytes = hotcoco.mask.merge(found)["counts"]
    return code


def _pixels(code: bytes) -> int:
    """Returns how many pixels a code's runs have together; -1 of what is no code.

    A run is written in digits of five bits, the lowest first, each with a bit that says whether
    another follows; from the fourth run on it is the difference from the one two before
    (rleToString and rleFrString of pycocotools).
    """
    digits = np.frombuffer(code, dtype=np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return -1
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:  # of 35 bits
        return -1
    place = np.arange(len(digits)) - np.repeat(first, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * place), first)
    runs -= np.where(digits[last] & 16, 1 << (5 * lengths), 0)
    for each in (runs[1::2], runs[2::2]):
        np.cumsum(each, out=each)
    return -1 if runs.min() < 0 else int(runs.sum())


def areas(codes: list[bytes], sizes: list[Size]) -> Float[np.ndarray, "M"]:
    """Returns how many pixels each mask covers."""
    import hotcoco

    masks = [{"size": size, "counts": code} for code, size in zip(codes, sizes, strict=True)]
    return np.asarray(hotcoco.mask.area(masks), dtype=np.float64).reshape(len(masks))
