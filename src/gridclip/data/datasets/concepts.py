"""What every kind of hybrid data gives: an image, its concepts, boxes or none."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.sampling import SampleIndex, SamplingPool
from gridclip.data.transforms.augment import Augmentation, Resize
from gridclip.io.errors import InputError, require_at_least
from gridclip.structures import Record, Targets

BOXED = Resize(shortest=(640, 672, 704, 736, 768, 800), longest=1333)
"""Size of images with boxes, in the paper and here."""

PAIRED = Resize(shortest=(320,), longest=480)
"""Size of images with captions; the paper's are squares of 320."""

_AUGMENTATION = Augmentation()


class ConceptSample(NamedTuple):
    """One image with what is said of it, ready for the network."""

    image: UInt8[Tensor, "3 h w"]
    names: tuple[str, ...]  # concepts said of it, each once
    targets: Targets  # labels are rows of `names`; empty where there are no boxes
    negatives: tuple[str, ...]  # concepts that it does not show, drawn by chance
    record: Record
    caption: str = ""
    # Of which concepts the boxes tell presence and absence; None: of all but what the caption says.
    known: frozenset[str] | None = None
    regions: Float[Tensor, "R 4"] | None = None  # proposals, xyxy, pixels of the resized image


@dataclass(frozen=True, kw_only=True)
class Stream:
    """How one kind of data is drawn.

    Args:
        batch_size: Images a process and step.
        ratio: Batches of this kind in proportion to the ratios of the others; 0 leaves it out.
        resize: Size of the images; one of the shortest sides is drawn for each.
        augmentation: What chance does to an image.
    """

    batch_size: int = 2
    ratio: float = 1.0
    resize: Resize = BOXED
    augmentation: Augmentation = _AUGMENTATION

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(0, ratio=self.ratio)


class ConceptSource(Dataset[ConceptSample], ABC):
    """Images of one kind, read by index, so that any order can be had and resumed."""

    @property
    @abstractmethod
    def pool(self) -> SamplingPool:
        """What a sampler draws from."""

    @abstractmethod
    def check(self) -> None:
        """Refuse, before any training, what cannot be read.

        Raises:
            InputError: naming file, field and fix.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """Every concept that boxes of this source have, each once; none for captions."""

    @abstractmethod
    def state(self) -> dict[str, str | int | float | bool | None]:
        """What decides which images and concepts a step sees, by its name."""

    @abstractmethod
    def __getitem__(self, draw: SampleIndex | int) -> ConceptSample:
        """Read and transform one image; chance is a function of seed and draw alone."""


def chances(
    seed: int, draw: SampleIndex, image: int
) -> tuple[np.random.Generator, np.random.Generator]:
    """Two streams of chance, for the view of an image and for its concepts.

    The first is that of DetectionDataset, so the same seed shows the same views.
    """
    said = (seed, draw.epoch, image, draw.turn)
    return np.random.default_rng(said), np.random.default_rng((*said, 1))


def seen_part(
    boxes: Float32[np.ndarray, "R 4"], size: tuple[int, int]
) -> Float32[np.ndarray, "r 4"]:
    """Cut boxes to a view, and leave out what is less than a pixel there.

    Args:
        boxes: xyxy, pixels of the view.
        size: Height and width of the view.
    """
    height, width = size
    inside = boxes.clip(0, np.array([width, height] * 2, dtype=np.float32))
    kept: Float32[np.ndarray, "r 4"] = inside[(inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)]
    return kept


class Joined(ConceptSource):
    """The images of several sources, one after the other.

    Args:
        parts: At least one, of the same batch size and ratio.
    """

    def __init__(self, parts: Sequence[ConceptSource]) -> None:
        self.parts = [*parts]

    @cached_property
    def pool(self) -> SamplingPool:
        """What a sampler draws from."""
        pools = [part.pool for part in self.parts]
        repeats = [
            np.ones(len(pool.sizes)) if pool.repeats is None else pool.repeats for pool in pools
        ]
        return SamplingPool(
            np.concatenate([pool.sizes for pool in pools]),
            pools[0].batch_size,
            None if all(pool.repeats is None for pool in pools) else np.concatenate(repeats),
            pools[0].ratio,
        )

    @cached_property
    def _ends(self) -> list[int]:
        """Where the images of each part end."""
        return np.cumsum([len(part.pool.sizes) for part in self.parts]).tolist()

    def check(self) -> None:
        """Refuse what cannot be read of any."""
        for part in self.parts:
            part.check()

    def names(self) -> list[str]:
        """Every concept with boxes, each once."""
        return [*dict.fromkeys(name for part in self.parts for name in part.names())]

    def state(self) -> dict[str, str | int | float | bool | None]:
        """What decides which images and concepts a step sees, part by part."""
        return {
            f"{row}.{name}": value
            for row, part in enumerate(self.parts)
            for name, value in part.state().items()
        }

    def __getitem__(self, draw: SampleIndex | int) -> ConceptSample:
        """Read and transform one image of the part that has it."""
        draw = draw if isinstance(draw, SampleIndex) else SampleIndex(row=draw, epoch=0)
        part = int(np.searchsorted(self._ends, draw.row, side="right"))
        before = self._ends[part - 1] if part else 0
        return self.parts[part][draw._replace(row=draw.row - before)]


def require_alike(kind: str, settings: Sequence[Stream]) -> None:
    """Refuse sources of one kind that are to be drawn differently.

    Raises:
        InputError: naming the setting.
    """
    for field in ("batch_size", "ratio"):
        values = [getattr(each, field) for each in settings]
        if len(set(values)) > 1:
            raise InputError(
                f"the sources have {', '.join(map(str, values))}, but share their batches",
                field=f"data.{kind}.{field}",
                fix="give all of them the same",
            )
