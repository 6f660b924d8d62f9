"""Lays cut-outs with alpha on a ground, and tells exactly what of each can be seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from gridclip.data.drawn.ground import LARGEST, grain, sloping_ground
from gridclip.data.drawn.sprites import SOLID, solid
from gridclip.data.pictures import read_picture
from gridclip.errors import InputError

Plane = Float32[np.ndarray, "S S"]
Ground = Callable[[np.random.Generator, int], Float32[np.ndarray, "S S 3"]]

_TRIES = 12  # sizes and places tried for an object before the scene does without it


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """How scenes are composed.

    Args:
        size: Side of the square picture in pixels.
        objects: Fewest and most objects of a scene; one that finds no room is left out.
        sides: Shortest and longest length of an object's longer side, in pixels, before others
            hide a part of it; spread evenly in the logarithm.
        lean: Objects lean by up to so many degrees to either side.
        hidden: At most this share of an object's pixels lies under other objects.
    """

    size: int = 256
    objects: tuple[int, int] = (1, 8)
    sides: tuple[int, int] = (32, 112)
    lean: float = 15.0
    hidden: float = 0.3

    def __post_init__(self) -> None:
        ranges = {
            "size": (64, self.size, LARGEST),
            "objects": (1, *self.objects),
            "sides": (8, *self.sides, self.size),
            "lean": (0, self.lean, 180),
            "hidden": (0, self.hidden, 0.9),
        }
        for field, values in ranges.items():
            if list(values) != sorted(values):
                raise InputError(
                    f"{getattr(self, field)} is out of range or order",
                    fix=f"give {values[0]} or more"
                    + (f", at most {values[-1]}" if field != "objects" else ", smaller first"),
                    field=f"scene.{field}",
                )


class Scene(NamedTuple):
    """A picture, and the visible extent of everything laid on it.

    A pixel shows an object if the object makes up half of it or more, after all that lies above.
    The box is tight around these pixels, and the area is their number.
    """

    pixels: UInt8[np.ndarray, "S S 3"]  # RGB
    boxes: Int64[np.ndarray, "T 4"]  # xyxy, pixels
    areas: Int64[np.ndarray, "T"]
    shown: list[int]  # which of the cut-outs found room, lowest first


def draw_scene(
    rng: np.random.Generator,
    cutouts: Sequence[Image.Image],
    settings: SceneSettings,
    ground: Ground = sloping_ground,
) -> Scene:
    """Lay cut-outs on a ground, each above the ones before.

    Args:
        rng: Decides ground, places, sizes and how much each leans.
        cutouts: RGBA, of any size.
        settings: The limits; `objects` is up to the caller.
        ground: Draws what they are laid on.
    """
    canvas = _Canvas(ground(rng, settings.size))
    shown = [row for row, cutout in enumerate(cutouts) if _find_room(rng, canvas, cutout, settings)]
    pixels = np.clip(canvas.pixels + grain(rng, settings.size), 0, 255).astype(np.uint8)
    seen = [share >= SOLID for share in canvas.shares]
    boxes = np.array([_bounds(mask) for mask in seen], dtype=np.int64).reshape(-1, 4)
    return Scene(pixels, boxes, np.array([mask.sum() for mask in seen], dtype=np.int64), shown)


def photographs(files: Sequence[Path]) -> Ground:
    """Grounds cut from photographs: a random square of at least half the shorter side."""

    def cut(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "S S 3"]:
        picture = Image.fromarray(read_picture(files[int(rng.integers(len(files)))]))
        shorter = min(picture.size)
        side = int(rng.integers((shorter + 1) // 2, shorter + 1))
        x = int(rng.integers(picture.width - side + 1))
        y = int(rng.integers(picture.height - side + 1))
        square = picture.resize((size, size), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
        return np.asarray(square, dtype=np.float32)

    return cut


class _Canvas:
    """A picture in the making, and how much of each pixel is each object's."""

    def __init__(self, ground: Float32[np.ndarray, "S S 3"]) -> None:
        self.pixels = ground.copy()
        self.shares: list[Plane] = []
        self.areas: list[int] = []  # pixels of each object before anything hid it

    def lay(self, cutout: Float32[np.ndarray, "h w 4"], x: int, y: int, hidden: float) -> bool:
        """Lay a cut-out there, unless an object below would lose too much."""
        height, width, _ = cutout.shape
        window = np.s_[y : y + height, x : x + width]
        colour, alpha = cutout[..., :3], cutout[..., 3]
        under = [share[window] * (1 - alpha) for share in self.shares]
        for share, below, area in zip(self.shares, under, self.areas, strict=True):
            lost = (share[window] >= SOLID).sum() - (below >= SOLID).sum()
            if (share >= SOLID).sum() - lost < (1 - hidden) * area:
                return False
        for share, below in zip(self.shares, under, strict=True):
            share[window] = below
        self.pixels[window] += alpha[..., None] * (colour - self.pixels[window])
        own = np.zeros(self.pixels.shape[:2], dtype=np.float32)
        own[window] = alpha
        self.shares.append(own)
        self.areas.append(int((alpha >= SOLID).sum()))
        return True


def _find_room(
    rng: np.random.Generator, canvas: _Canvas, cutout: Image.Image, settings: SceneSettings
) -> bool:
    """Try sizes and places; a crowded scene takes smaller objects."""
    shortest, longest = np.log(settings.sides)
    angle = rng.uniform(-settings.lean, settings.lean)
    leaning = cutout.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    leaning = leaning.crop(leaning.getchannel("A").getbbox())  # an empty border needs no room
    for attempt in range(_TRIES):
        most = longest - (longest - shortest) * attempt / _TRIES
        scaled = _scale(leaning, float(np.exp(rng.uniform(shortest, most))))
        height, width, _ = scaled.shape
        room_y, room_x = settings.size - height, settings.size - width
        if min(room_y, room_x) < 0 or not (scaled[..., 3] >= SOLID).any():
            continue
        x, y = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
        if canvas.lay(scaled, x, y, settings.hidden):
            return True
    return False


def _scale(cutout: Image.Image, side: float) -> Float32[np.ndarray, "h w 4"]:
    """Resize so that the longer side of what is solid has this length; RGB 0-255, alpha 0-1."""
    left, top, right, bottom = _bounds(solid(cutout))
    factor = side / max(right - left, bottom - top)
    size = (max(1, round(cutout.width * factor)), max(1, round(cutout.height * factor)))
    # PIL weighs colours by alpha here, so no halo comes from behind the transparent border.
    pixels = np.asarray(cutout.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return np.concatenate([pixels[..., :3], pixels[..., 3:] / 255], axis=-1)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight xyxy of what is true."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
