"""Which library draws the crop window and the colours of a training image, behind two functions.

albumentations is the default, and albumentations alone knows here that it is one: its last release
is of 2025, so torchvision.transforms.v2 stands beside it. Both get a seed for each call, so that a
view is a function of its image and its seed. From the same seed both cut the same window, so boxes
are the same; colours are drawn from the same ranges, but are not the same.
"""

import os
from collections.abc import Callable
from random import Random
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from gridclip.data.transforms.example import to_tensor

LibraryName = Literal["albumentations", "torchvision"]
Window = tuple[int, int, int, int]
"""xyxy, whole pixels of the image."""


class Library(Protocol):
    """What is asked of a library."""

    def window(self, boxes: Float32[np.ndarray, "T 4"], size: tuple[int, int], seed: int) -> Window:
        """Returns a window around all boxes, or cutting into them as far as the erosion allows.

        Args:
            boxes: xyxy, pixels of the image.
            size: Its height and width.
            seed: Of the draws.
        """

    def colour(self, image: UInt8[np.ndarray, "h w 3"], seed: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image in other colours."""


class Albumentations:
    """By BBoxSafeRandomCrop and ColorJitter.

    Args:
        erosion: How far a window may cut into the boxes at its border, as a fraction.
        strength: Of the colours' change, in [0, 1].
    """

    def __init__(self, erosion: float, strength: float) -> None:
        # Without this, importing albumentations asks the network for a newer release.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations

        self._safe = albumentations.BBoxSafeRandomCrop(erosion)
        self._colour = albumentations.ColorJitter(strength, strength, strength, strength / 10, p=1)

    def window(self, boxes: Float32[np.ndarray, "T 4"], size: tuple[int, int], seed: int) -> Window:
        """Returns a window around the boxes; see `Library`."""
        height, width = size
        self._safe.set_random_seed(seed)
        asked = self._safe.get_params_dependent_on_data(
            {"shape": size}, {"bboxes": boxes / ([width, height] * 2)}
        )
        left, top, right, bottom = map(int, asked["crop_coords"])
        # It rounds down at the far sides too, which cuts up to a pixel off, or a tiny box away.
        return left, top, min(right + 1, width), min(bottom + 1, height)

    def colour(self, image: UInt8[np.ndarray, "h w 3"], seed: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image in other colours."""
        self._colour.set_random_seed(seed)
        changed: UInt8[np.ndarray, "h w 3"] = self._colour(image=image)["image"]
        return changed


class Torchvision:
    """By torchvision.transforms.v2, which has colours but no crop that keeps boxes whole.

    Args:
        erosion: How far a window may cut into the boxes at its border, as a fraction.
        strength: Of the colours' change, in [0, 1].
    """

    def __init__(self, erosion: float, strength: float) -> None:
        from torchvision.transforms import v2

        self._erosion = erosion
        self._colour = v2.ColorJitter(strength, strength, strength, strength / 10)

    def window(self, boxes: Float32[np.ndarray, "T 4"], size: tuple[int, int], seed: int) -> Window:
        """Returns a window whose sides are drawn between the border and the boxes.

        Without a box, or where erosion leaves none, it has the image's ratio.
        """
        chance, sides = Random(seed), np.array(size[::-1])
        inner = self._inner(boxes / np.tile(sides, 2))
        if inner is None:
            return self._proportional(size, chance)
        near = (inner[:2] * [chance.random(), chance.random()] * sides).astype(int)
        far = inner[2:] + (1 - inner[2:]) * [chance.random(), chance.random()]
        # One further, because rounding down cuts up to a pixel off.
        right, bottom = np.minimum((far * sides).astype(int) + 1, sides).tolist()
        return int(near[0]), int(near[1]), right, bottom

    def colour(self, image: UInt8[np.ndarray, "h w 3"], seed: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image in other colours; torch's own random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed = self._colour(to_tensor(image))
        return np.ascontiguousarray(changed.permute(1, 2, 0).numpy())

    def _inner(self, boxes: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "4"] | None:
        """Returns what every window shows, in fractions of the image; None if that is nothing.

        A single box is never cut into, unless nothing is to be left of any.
        """
        if not len(boxes) or self._erosion == 1:
            return None
        near, far = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        if len(boxes) > 1:
            margin = (far - near) * self._erosion / 2
            near, far = near + margin, far - margin
            if (far - near < 1e-6).any():
                return None
        inner: Float[np.ndarray, "4"] = np.concatenate([near, far]).clip(0, 1)
        return inner

    def _proportional(self, size: tuple[int, int], chance: Random) -> Window:
        height, width = size
        least = int(height * (1 - self._erosion))
        tall = chance.randint(least, height) if least < height else height
        wide = int(tall * width / height)
        top = int((height - tall + 1) * chance.random())
        left = int((width - wide + 1) * chance.random())
        return left, top, min(left + wide + 1, width), min(top + tall + 1, height)


LIBRARIES: dict[LibraryName, Callable[[float, float], Library]] = {
    "albumentations": Albumentations,
    "torchvision": Torchvision,
}
