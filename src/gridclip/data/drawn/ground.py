"""What drawn objects stand on: clouds of noise, and a sensor's grain."""

from functools import cache

import numpy as np
from jaxtyping import Float32
from PIL import Image

LARGEST = 768  # pixels of the noise fields' side, so of the largest ground


def noisy_ground(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "S S 3"]:
    """Slow clouds on one tint, RGB 0-255.

    Args:
        rng: Decides tint, strength and place.
        size: Side in pixels, at most LARGEST.
    """
    tint = rng.uniform(60, 200, 3).astype(np.float32)
    strength = np.float32(rng.uniform(8, 25))
    return tint + strength * crop(rng, _noise_fields()[0], size)


def grain(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "S S 3"]:
    """The grain of a sensor, to be added to a finished canvas."""
    return crop(rng, _noise_fields()[1], size)


def crop(
    rng: np.random.Generator, field: Float32[np.ndarray, "H W *C"], side: int
) -> Float32[np.ndarray, "side side *C"]:
    """Cut a square out of a larger one, anywhere."""
    y, x = rng.integers(0, len(field) - side + 1, 2).tolist()
    return field[y : y + side, x : x + side]


@cache
def _noise_fields() -> tuple[Float32[np.ndarray, "G G 3"], Float32[np.ndarray, "G G 3"]]:
    """Slow clouds of unit variance and grain, made once, from which all grounds are cut."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (3, LARGEST // 16, LARGEST // 16)).astype(np.float32)
    clouds = [
        np.asarray(Image.fromarray(plane).resize((LARGEST, LARGEST), Image.Resampling.BICUBIC))
        for plane in coarse
    ]
    field = rng.normal(0, 6, (LARGEST, LARGEST, 3)).astype(np.float32)
    return np.ascontiguousarray(np.stack(clouds, -1)), field
