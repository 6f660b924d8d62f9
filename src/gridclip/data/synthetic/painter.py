"""Paints the mini world: coloured, textured shapes on noisy ground, as numpy images.

One scene costs well under a millisecond, because shapes, textures and noise are made once and cut
from a cache after that. The same painter serves the mini data set and the training of the mini
CLIP, so the two see one world.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image

Json = dict[str, Any]

LARGEST = 768  # pixels of the noise fields' side, so of the largest ground


def noisy_ground(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "S S 3"]:
    """Returns slow clouds on one tint, RGB 0-255.

    Args:
        rng: Decides tint, strength and place.
        size: Side in pixels, at most LARGEST.
    """
    tint = rng.uniform(60, 200, 3).astype(np.float32)
    strength = np.float32(rng.uniform(8, 25))
    return tint + strength * crop(rng, _noise_fields()[0], size)


def grain(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "S S 3"]:
    """Returns the grain of a sensor, to be added to a finished canvas."""
    return crop(rng, _noise_fields()[1], size)


def crop(
    rng: np.random.Generator, field: Float32[np.ndarray, "H W *C"], side: int
) -> Float32[np.ndarray, "side side *C"]:
    """Cuts a square out of a larger one, anywhere."""
    y, x = rng.integers(0, len(field) - side + 1, 2).tolist()
    return field[y : y + side, x : x + side]


@cache
def _noise_fields() -> tuple[Float32[np.ndarray, "G G 3"], Float32[np.ndarray, "G G 3"]]:
    """Returns slow clouds of unit variance and grain, made once, from which all grounds are cut."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (3, LARGEST // 16, LARGEST // 16)).astype(np.float32)
    clouds = [
        np.asarray(Image.fromarray(plane).resize((LARGEST, LARGEST), Image.Resampling.BICUBIC))
        for plane in coarse
    ]
    field = rng.normal(0, 6, (LARGEST, LARGEST, 3)).astype(np.float32)
    return np.ascontiguousarray(np.stack(clouds, -1)), field


Plane = Float32[np.ndarray, "H W"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 210, 40),
    "purple": (150, 60, 190),
    "orange": (240, 140, 30),
    "cyan": (50, 200, 210),
    "pink": (240, 130, 180),
}
TEXTURES = ("plain", "striped", "dotted")


def _star(u: Plane, v: Plane) -> Bool[np.ndarray, "H W"]:
    """Returns a star: the plane folded onto half of one point, and the side of its edge."""
    tip, notch, half = 0.97, 0.42, math.pi / 5
    turn = np.abs((np.arctan2(u, -v) + half) % (2 * half) - half)
    x, y = np.hypot(u, v) * np.cos(turn), np.hypot(u, v) * np.sin(turn)
    across, down = notch * math.cos(half) - tip, notch * math.sin(half)
    return (x - tip) * down - y * across < 0


# Each returns which points of the square [-1, 1]² are inside; u runs to the right and v down.
SHAPES: dict[str, Callable[[Plane, Plane], Bool[np.ndarray, "H W"]]] = {
    "circle": lambda u, v: u**2 + v**2 < 0.81,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.68,
    "triangle": lambda u, v: (v < 0.55) & (v > 1.75 * abs(u) - 0.9),
    "star": _star,
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.27) & (np.maximum(abs(u), abs(v)) < 0.9),
    "diamond": lambda u, v: abs(u) / 0.55 + abs(v) / 0.95 < 1,
    "ring": lambda u, v: (u**2 + v**2 < 0.81) & (u**2 + v**2 > 0.27),
    "hourglass": lambda u, v: (abs(v) < 0.74) & (abs(u) < 0.8 * abs(v) + 0.06),
    "bowl": lambda u, v: (v > -0.4) & (u**2 + (v + 0.4) ** 2 < 0.81),
    "heart": lambda u, v: (
        (1.6 * u**2 + (0.12 - 1.28 * v) ** 2 - 1) ** 3 < 1.6 * u**2 * (0.12 - 1.28 * v) ** 3
    ),
    "arrow": lambda u, v: (
        ((abs(v) < 0.22) & (abs(u + 0.4) < 0.5)) | ((u > 0) & (abs(v) < 0.85 * (0.9 - u)))
    ),
    "moon": lambda u, v: (u**2 + v**2 < 0.81) & ((u - 0.42) ** 2 + v**2 > 0.5),
}

_ANGLES = 13  # an object leans by up to 24 degrees to either side, in steps of 4
_TILE = 160  # pixels of a texture tile's side; objects are cut from it at a random offset
_TRIES = 40  # places tried for an object before the scene does without it


class Kind(NamedTuple):
    """What an object looks like."""

    colour: str
    texture: str
    shape: str


Polygon = Float32[np.ndarray, "V 2"]
"""x, y of corners in pixels of the image."""


class Scene(NamedTuple):
    """An image and all that stands in it, whether a data set annotates it or not."""

    pixels: UInt8[np.ndarray, "S S 3"]  # RGB
    boxes: Int64[np.ndarray, "T 4"]  # xyxy, pixels, tight around the shape
    areas: Int64[np.ndarray, "T"]  # pixels of the shape's mask
    kinds: list[Kind]  # those that found room, in the order they were asked for
    polygons: list[list[Polygon]]  # of each object; together they enclose its pixels

    def save(self, file: Path) -> None:
        """Writes the image as JPEG with little loss: quality 90, colours at full resolution."""
        Image.fromarray(self.pixels).save(file, quality=90, subsampling=0)

    def annotations(
        self, image_id: int, first_id: int, category_ids: Sequence[int], boxed: Sequence[bool]
    ) -> list[Json]:
        """Returns LVIS's `annotations` of the objects that are boxed, with boxes as xywh.

        Args:
            image_id: Of this image.
            first_id: Of the first annotation; the others count on.
            category_ids: Of each object.
            boxed: Whether each object is annotated.
        """
        boxes, areas = self.boxes.tolist(), self.areas.tolist()
        objects = zip(category_ids, boxes, areas, self.polygons, strict=True)
        return [
            {
                "id": first_id + row,
                "image_id": image_id,
                "category_id": category,
                "bbox": [left, top, right - left, bottom - top],
                "area": area,
                "segmentation": [part.ravel().tolist() for part in polygons],
            }
            for row, (category, (left, top, right, bottom), area, polygons) in enumerate(
                itertools.compress(objects, boxed)
            )
        ]


class _Mask(NamedTuple):
    alpha: Float32[np.ndarray, "n n"]
    box: tuple[int, int, int, int]  # xyxy inside the mask
    area: int
    polygons: list[Polygon]


def draw_scene(
    rng: np.random.Generator,
    kinds: Sequence[Kind],
    *,
    size: int = 128,
    object_sizes: tuple[int, int] = (20, 56),
) -> Scene:
    """Paints objects on noisy ground so that no two boxes overlap by a tenth of the smaller.

    Args:
        rng: Decides everything that ``kinds`` leaves open.
        kinds: What to paint; an object that finds no room is left out.
        size: Side of the image in pixels.
        object_sizes: Smallest and largest side of an object's square in pixels, both included.
    """
    canvas = noisy_ground(rng, size)
    placed: list[Kind] = []
    boxes: list[tuple[int, int, int, int]] = []
    areas: list[int] = []
    polygons: list[list[Polygon]] = []
    for kind in kinds:
        spot = _find_room(rng, kind.shape, boxes, size, object_sizes)
        if spot is not None:
            mask, x, y = spot
            _paint(rng, canvas[y : y + len(mask.alpha), x : x + len(mask.alpha)], kind, mask.alpha)
            placed.append(kind)
            boxes.append(_shift(mask.box, x, y))
            areas.append(mask.area)
            corner = np.array([x, y], np.float32)
            polygons.append([part + corner for part in mask.polygons])
    canvas += grain(rng, size)
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    corners = np.array(boxes, np.int64).reshape(-1, 4)
    return Scene(pixels, corners, np.array(areas, np.int64), placed, polygons)


def _find_room(
    rng: np.random.Generator,
    shape: str,
    boxes: list[tuple[int, int, int, int]],
    size: int,
    object_sizes: tuple[int, int],
) -> tuple[_Mask, int, int] | None:
    smallest, largest = object_sizes
    for _ in range(_TRIES):
        side = int(rng.integers(smallest, largest + 1))
        x, y = rng.integers(0, size - side + 1, 2).tolist()
        mask = _mask(shape, side, int(rng.integers(_ANGLES)))
        if all(_overlap(_shift(mask.box, x, y), box) < 0.1 for box in boxes):
            return mask, x, y
        largest = max(smallest, largest - 1)  # a crowded scene takes smaller objects
    return None


def _paint(
    rng: np.random.Generator,
    patch: Float32[np.ndarray, "n n 3"],
    kind: Kind,
    alpha: Float32[np.ndarray, "n n"],
) -> None:
    """Lays the object over its patch of the canvas, in place."""
    side = len(alpha)
    ink = (np.array(COLOURS[kind.colour]) + rng.normal(0, 12, 3)).astype(np.float32)
    coat: Float32[np.ndarray, ...] = ink
    if kind.texture != "plain":
        pattern = crop(rng, _tile(kind.texture, max(6, round(side / 4.5))), side)
        if rng.random() < 0.5:
            pattern = pattern[::-1]  # stripes lean both ways
        second = 0.3 * ink if kind.texture == "striped" else np.full(3, 250, np.float32)
        coat = ink + pattern[..., None] * (second - ink)
    patch += alpha[..., None] * (coat - patch)


@cache
def _mask(shape: str, side: int, angle: int) -> _Mask:
    """Returns a shape's coverage of each pixel, from 4 x 4 samples a pixel."""
    axis = (np.arange(4 * side, dtype=np.float32) + 0.5) / (2 * side) - 1
    turn = math.radians(4 * (angle - _ANGLES // 2))
    u = math.cos(turn) * axis[None, :] + math.sin(turn) * axis[:, None]
    v = math.cos(turn) * axis[:, None] - math.sin(turn) * axis[None, :]
    inside = SHAPES[shape](u, v).astype(np.float32)
    alpha = inside.reshape(side, 4, side, 4).mean((1, 3))
    ys, xs = np.nonzero(alpha > 0.5)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    return _Mask(alpha, box, len(xs), _outlines(alpha > 0.5))


def _outlines(inside: Bool[np.ndarray, "n n"]) -> list[Polygon]:
    """Returns polygons that enclose these pixels and no others, by COCO's way of filling them.

    They run a quarter of a pixel inside the outermost pixels' edges. A shape with a hole, which no
    polygon can have, is cut in two.
    """
    import cv2

    doubled = inside.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    outlines, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (tree[0, :, 3] >= 0).any():  # one that lies in another
        left = np.arange(inside.shape[1]) < inside.shape[1] // 2
        return _outlines(inside & left) + _outlines(inside & ~left)
    simple = [cv2.approxPolyDP(outline, 0.6, True)[:, 0] for outline in outlines]
    return [(part / 2 + 0.25).astype(np.float32) for part in simple]


@cache
def _tile(texture: str, period: int) -> Plane:
    """Returns where the texture's second colour is, 0 to 1, with soft edges."""
    y, x = np.mgrid[0:_TILE, 0:_TILE].astype(np.float32)
    if texture == "striped":
        wave = np.abs((x + y) / math.sqrt(2) % period - period / 2)  # distance to a stripe's middle
        edge = period / 4 - wave
    else:
        edge = 0.33 * period - np.hypot(x % period - period / 2, y % period - period / 2)
    return np.clip(edge + 0.5, 0, 1).astype(np.float32)


def _shift(box: tuple[int, int, int, int], x: int, y: int) -> tuple[int, int, int, int]:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def _overlap(one: tuple[int, int, int, int], two: tuple[int, int, int, int]) -> float:
    """Returns the shared pixels over those of the smaller box."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    smaller = min((one[2] - one[0]) * (one[3] - one[1]), (two[2] - two[0]) * (two[3] - two[1]))
    return max(0, width) * max(0, height) / smaller
