"""From a picture and its boxes to what the network sees: resize, flip, crop, colour."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from gridclip.errors import InputError


class Example(NamedTuple):
    """A picture with its boxes, in one and the same frame."""

    picture: UInt8[np.ndarray, "h w 3"]  # RGB
    boxes: Float32[np.ndarray, "T 4"]  # xyxy, pixels of the picture
    labels: Int64[np.ndarray, "T"]


# Makes another example of one, by chance if it likes; the generator is its only chance.
Transform = Callable[[Example, np.random.Generator], Example]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Keep-ratio size of a picture, in pixels.

    Args:
        shortest: Shortest side; of several, training draws one for each picture.
        longest: The longest side never exceeds this, whatever the shortest becomes.
    """

    shortest: tuple[int, ...] = (800,)
    longest: int = 1333

    def __post_init__(self) -> None:
        if not self.shortest or min(self.shortest) < 1:
            raise InputError(
                f"no usable side in {self.shortest}", fix="give pixels", field="shortest"
            )
        if self.longest < max(self.shortest):
            raise InputError(
                f"{self.longest} is below the shortest side {max(self.shortest)}",
                fix="make longest at least as large",
                field="longest",
            )

    def size(self, height: int, width: int, shortest: float | None = None) -> tuple[int, int]:
        """Give the height and width that a picture gets, at the largest shortest side or another.

        The ratio is kept but for the rounding of both to whole pixels.
        """
        shortest = max(self.shortest) if shortest is None else shortest
        scale = min(shortest / min(height, width), self.longest / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What chance does to a training picture. The default changes nothing but the side it faces.

    Args:
        flip: Probability of mirroring left and right.
        colour: Strength in [0, 1]: brightness, contrast and saturation vary by up to this fraction,
            hue by a tenth of it.
        crop: Probability of a crop around the boxes before the resize, so objects grow.
        erosion: How far a crop may cut into the boxes at its border, as a fraction; 0 keeps each
            box whole (but for less than a pixel).
        scale: Range of a factor on the shortest side (large-scale jitter).
        min_visibility: Boxes that keep less than this fraction of their area are dropped.
    """

    flip: float = 0.5
    colour: float = 0.0
    crop: float = 0.0
    erosion: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    min_visibility: float = 0.1

    def __post_init__(self) -> None:
        for field in ("flip", "colour", "crop", "erosion", "min_visibility"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(
                    f"{getattr(self, field)} is outside [0, 1]", fix="give a fraction", field=field
                )
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise InputError(
                f"{self.scale} is no range of factors", fix="give low, high", field="scale"
            )


def prepare(
    picture: UInt8[np.ndarray, "height width 3"], settings: Resize
) -> UInt8[Tensor, "3 h w"]:
    """Resize one RGB picture as evaluation does, to the largest of the shortest sides.

    Returns:
        The resized picture without padding; unchanged pixels where the size already fits.
    """
    height, width, _ = picture.shape
    return to_tensor(_resample(picture, settings.size(height, width)))


def to_tensor(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """Put the channels first, without a copy where the memory may be written."""
    return torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)


def resize(example: Example, size: tuple[int, int]) -> Example:
    """Resize picture and boxes to a height and width.

    Pixel edges map to pixel edges: x becomes x × (new width / width), with both whole widths.
    """
    height, width = example.picture.shape[:2]
    factors = np.array([size[1] / width, size[0] / height] * 2)
    boxes = (example.boxes * factors).astype(np.float32)
    return Example(_resample(example.picture, size), boxes, example.labels)


class EvaluationTransform:
    """Resize only.

    Args:
        settings: With exactly one shortest side.

    Raises:
        InputError: if there are several.
    """

    def __init__(self, settings: Resize) -> None:
        if len(settings.shortest) != 1:
            raise InputError(
                f"evaluation needs one side, got {settings.shortest}",
                fix="give one number",
                field="shortest",
            )
        self.settings = settings

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        """Resize; the generator is not asked."""
        height, width, _ = example.picture.shape
        return resize(example, self.settings.size(height, width))


class TrainingTransform:
    """Crop, resize, flip and colour, in this order: one resampling, colours on the small picture.

    Args:
        settings: A shortest side is drawn from its list for each picture.
        augmentation: What chance does.
    """

    def __init__(self, settings: Resize, augmentation: Augmentation) -> None:
        # Without this, importing albumentations asks the network for a newer release.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations

        self.settings, self.augmentation = settings, augmentation
        boxes = albumentations.BboxParams(
            format="pascal_voc",
            label_fields=["labels"],
            min_visibility=augmentation.min_visibility,
            clip=True,
            filter_invalid_bboxes=True,
            check_each_transform=False,  # once, at the end, is enough
        )
        crop = albumentations.BBoxSafeRandomCrop(augmentation.erosion, p=augmentation.crop)
        flip = albumentations.HorizontalFlip(p=augmentation.flip)
        strength = augmentation.colour
        colour = albumentations.ColorJitter(
            strength, strength, strength, strength / 10, p=float(strength > 0)
        )
        self._before = albumentations.Compose([crop], bbox_params=boxes)
        self._after = albumentations.Compose([flip, colour], bbox_params=boxes)

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        """Make a training example, a function of the example and the generator alone."""
        if self.augmentation.crop:
            example = _apply(self._before, example, generator)
        side = generator.choice(self.settings.shortest)
        shortest = float(side * generator.uniform(*self.augmentation.scale))
        height, width, _ = example.picture.shape
        example = resize(example, self.settings.size(height, width, shortest))
        return _apply(self._after, example, generator)


def _apply(compose: Any, example: Example, generator: np.random.Generator) -> Example:  # noqa: ANN401 - imported lazily
    compose.set_random_seed(int(generator.integers(2**32)))
    result = compose(image=example.picture, bboxes=example.boxes, labels=example.labels)
    return Example(
        picture=result["image"],
        boxes=np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4),
        labels=np.asarray(result["labels"]).astype(np.int64),  # they come back as floats
    )


def _resample(
    picture: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    height, width = size
    if picture.shape[:2] == size:
        return picture
    import cv2

    # Bilinear sampling reads two pixels of a row, which is enough down to half the size; below that
    # it would skip pixels, so there each is averaged over the area it covers.
    halved = 2 * height < picture.shape[0]
    interpolation = cv2.INTER_AREA if halved else cv2.INTER_LINEAR
    resized: UInt8[np.ndarray, "h w 3"] = cv2.resize(
        picture, (width, height), interpolation=interpolation
    )
    return resized
