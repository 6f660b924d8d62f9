"""From an image and its boxes to what the network sees: resize, flip, crop, colour."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from gridclip.data.transforms.example import (
    Example,
    Mosaic,
    crop,
    mirror,
    resample,
    resize,
    to_tensor,
)
from gridclip.data.transforms.libraries import LIBRARIES, LibraryName
from gridclip.data.transforms.truncate import truncate
from gridclip.io.errors import InputError, require_at_least, require_fraction

# Makes another example of one; all random choices are the generator's.
Transform = Callable[[Example, np.random.Generator], Example]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Keep-ratio size of an image, in pixels.

    Args:
        shortest: Shortest side; of several, training draws one for each image.
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
        """Returns the height and width that an image gets, at the largest shortest side or another.

        The ratio is kept but for the rounding of both to whole pixels.
        """
        shortest = max(self.shortest) if shortest is None else shortest
        scale = min(shortest / min(height, width), self.longest / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training image. The default mirrors half of them.

    Args:
        flip: Probability of mirroring left and right.
        colour: Strength in [0, 1]: brightness, contrast and saturation vary by up to this fraction,
            hue by a tenth of it.
        crop: Probability of a crop around the boxes before the resize, so objects grow.
        erosion: How far a crop may cut into the boxes at its border, as a fraction; 0 keeps each
            box whole.
        scale: Range of a factor on the image's size.
        canvas: Side of the square of large-scale jitter, in pixels; 0 does without. With it a
            image gets the size that fits the square, times a factor from `scale`, in place of
            `resize`; what then exceeds the square is cropped at random. Of LSJ (2012.07177): 1024,
            with a scale from 0.1 to 2.
        mosaic: Probability that an image with boxes is joined from parts of four (2004.10934).
        truncate: Probability, for each box, that one side of its object is hidden and the box ends
            where the object now ends, so that outlines are not learned by heart.
        min_visibility: Boxes that keep less than this fraction of their area are dropped.
        library: What draws the crop window and changes the colours. Both libraries cut the same
            windows; the colours of one image are not the same.
    """

    flip: float = 0.5
    colour: float = 0.0
    crop: float = 0.0
    erosion: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    canvas: int = 0
    mosaic: float = 0.0
    truncate: float = 0.0
    min_visibility: float = 0.1
    library: LibraryName = "albumentations"

    def __post_init__(self) -> None:
        require_fraction(
            flip=self.flip,
            colour=self.colour,
            crop=self.crop,
            erosion=self.erosion,
            mosaic=self.mosaic,
            truncate=self.truncate,
            min_visibility=self.min_visibility,
        )
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise InputError(
                f"{self.scale} is no range of factors", fix="give low, high", field="scale"
            )
        require_at_least(0, canvas=self.canvas)

    def uncacheable(self) -> list[str]:
        """Returns the settings by which a teacher sees another image than the image or its mirror.

        A stored embedding of the whole image, and one of its mirror image, hold for every view
        if this is empty.
        """
        jittered = self.canvas > 0 and self.scale[1] > 1
        changes = {"colour": self.colour > 0, "crop": self.crop > 0, "canvas": jittered}
        changes |= {"mosaic": self.mosaic > 0, "truncate": self.truncate > 0}
        return [name for name, changed in changes.items() if changed]

    @property
    def joined(self) -> Mosaic:
        """The mosaic of these settings."""
        return Mosaic(probability=self.mosaic, min_visibility=self.min_visibility)

    def require_single(self, what: str) -> None:
        """Refuses a mosaic where something is known of an image as a whole.

        Args:
            what: Is known of them.

        Raises:
            InputError: if there is a mosaic.
        """
        if self.mosaic:
            raise InputError(
                f"{what} of a whole image, and a mosaic shows parts of four",
                fix="set mosaic to 0 here",
                field="augmentation.mosaic",
            )


TRAIN_RESIZE = Resize(shortest=(640, 672, 704, 736, 768, 800), longest=1333)
VAL_RESIZE = Resize(shortest=(800,), longest=1333)
AUGMENTATION = Augmentation()
"""What training and evaluation do to images with boxes, unless a setting says otherwise."""


def prepare(image: UInt8[np.ndarray, "height width 3"], settings: Resize) -> UInt8[Tensor, "3 h w"]:
    """Resizes one RGB image as evaluation does, to the largest of the shortest sides.

    Returns:
        The resized image without padding; unchanged pixels where the size already fits.
    """
    height, width, _ = image.shape
    return to_tensor(resample(image, settings.size(height, width)))


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
        """Resizes; the generator is not used."""
        height, width, _ = example.image.shape
        return resize(example, self.settings.size(height, width))


class TrainingTransform:
    """Truncate, crop, resize, flip, colour: one resampling, and colours on the small image.

    Crop window and colours are a library's (libraries.py); the rest is done here, because a stored
    embedding has to know whether its image was mirrored, and so that no pixel is resampled to be
    cropped.

    Args:
        settings: A shortest side is drawn from its list for each image.
        augmentation: The random changes.
    """

    def __init__(self, settings: Resize, augmentation: Augmentation) -> None:
        self.settings, self.augmentation = settings, augmentation
        self._library = LIBRARIES[augmentation.library](augmentation.erosion, augmentation.colour)

    def __call__(self, example: Example, generator: np.random.Generator) -> Example:
        """Makes a training example, a function of the example and the generator alone."""
        augmentation = self.augmentation
        if augmentation.truncate:
            example = truncate(example, augmentation.truncate, generator)
        if generator.random() < augmentation.crop:
            seed = int(generator.integers(2**32))
            window = self._library.window(example.boxes, example.image.shape[:2], seed)
            example = crop(example, window, augmentation.min_visibility)
        factor = generator.uniform(*augmentation.scale)
        if augmentation.canvas:
            example = self._jitter(example, factor, generator)
        else:
            shortest = float(generator.choice(self.settings.shortest) * factor)
            height, width, _ = example.image.shape
            example = resize(example, self.settings.size(height, width, shortest))
        if generator.random() < augmentation.flip:
            example = mirror(example)
        if augmentation.colour:
            seed = int(generator.integers(2**32))
            example = example._replace(image=self._library.colour(example.image, seed))
        return example

    def _jitter(self, example: Example, factor: float, generator: np.random.Generator) -> Example:
        """Applies large-scale jitter (2012.07177); what exceeds the square is cut first.

        Smaller images are not padded to the square here: a batch is padded to its largest one.
        """
        canvas, sides = self.augmentation.canvas, example.image.shape[:2]
        zoom = factor * canvas / max(sides)
        height, width = (min(side, max(1, round(canvas / zoom))) for side in sides)
        top = int(generator.integers(sides[0] - height + 1))
        left = int(generator.integers(sides[1] - width + 1))
        window = (left, top, left + width, top + height)
        example = crop(example, window, self.augmentation.min_visibility)
        size = (min(canvas, max(1, round(side * zoom))) for side in (height, width))
        return resize(example, (next(size), next(size)))
