"""What every kind of hybrid data has in common: an image with its concepts, and their batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.datasets.noun_phrases import word_set
from gridclip.data.sampling import Kind, SampleIndex, SamplingPool
from gridclip.data.transforms.augment import AUGMENTATION, TRAIN_RESIZE, Augmentation, Resize
from gridclip.io.errors import require_at_least
from gridclip.ops.images import pad
from gridclip.structures import ConceptBatch, Record, Targets, Vocabulary


class ConceptSample(NamedTuple):
    """One image with its concepts, ready for the network."""

    image: UInt8[Tensor, "3 h w"]
    names: tuple[str, ...]  # its concepts, each once
    targets: Targets  # labels are rows of `names`; empty where there are no boxes
    negatives: tuple[str, ...]  # concepts that it does not show, drawn at random
    record: Record
    caption: str = ""
    # Concepts whose presence or absence the boxes verify; None: all but those of the caption.
    known: frozenset[str] | None = None
    regions: Float[Tensor, "R 4"] | None = None  # proposals, xyxy, pixels of the resized image


@dataclass(frozen=True, kw_only=True)
class Stream:
    """How one kind of data is drawn.

    Args:
        batch_size: Images a process and step.
        ratio: Batches of this kind in proportion to the ratios of the others; 0 leaves it out.
        resize: Size of the images; one of the shortest sides is drawn for each.
        augmentation: Random changes of an image.
    """

    batch_size: int = 2
    ratio: float = 1.0
    resize: Resize = TRAIN_RESIZE
    augmentation: Augmentation = AUGMENTATION

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
        """Refuses, before any training, what cannot be read.

        Raises:
            InputError: naming file, field and fix.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """Returns every concept that has a box, each once; none for captions."""

    @abstractmethod
    def state(self) -> dict[str, str | int | float | bool | None]:
        """Returns what decides which images and concepts a step sees, by its name."""

    @abstractmethod
    def __getitem__(self, draw: SampleIndex) -> ConceptSample:
        """Reads and transforms one image, a function of seed and draw alone."""


def generators(
    seed: int, draw: SampleIndex, image: int
) -> tuple[np.random.Generator, np.random.Generator]:
    """Returns two random generators, for the view of an image and for its concepts.

    The first is that of DetectionDataset, so the same seed shows the same views.
    """
    key = (seed, draw.epoch, image, draw.turn)
    return np.random.default_rng(key), np.random.default_rng((*key, 1))


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
        """Refuses what cannot be read of any source."""
        for part in self.parts:
            part.check()

    def names(self) -> list[str]:
        """Returns every concept that has a box, each once."""
        return [*dict.fromkeys(name for part in self.parts for name in part.names())]

    def state(self) -> dict[str, str | int | float | bool | None]:
        """Returns what decides which images and concepts a step sees, part by part."""
        return {
            f"{row}.{name}": value
            for row, part in enumerate(self.parts)
            for name, value in part.state().items()
        }

    def __getitem__(self, draw: SampleIndex) -> ConceptSample:
        """Reads and transforms one image of the part that has it."""
        part = int(np.searchsorted(self._ends, draw.row, side="right"))
        before = self._ends[part - 1] if part else 0
        return self.parts[part][draw._replace(row=draw.row - before)]


def collate_concepts(
    kind: Kind, samples: Sequence[ConceptSample], multiple: int = 32
) -> ConceptBatch:
    """Makes a batch: images are padded, and the concepts of all of them become one vocabulary.

    The concepts of the images come first, in the order of the images; then the negatives. A label
    moves to the row that its concept has there.

    Args:
        kind: Of all samples.
        samples: At least one.
        multiple: As in `pad`.
    """
    own = (name for sample in samples for name in sample.names)
    negatives = (name for sample in samples for name in sample.negatives)
    rows = {name: row for row, name in enumerate(dict.fromkeys([*own, *negatives]))}
    regions = [sample.regions for sample in samples if sample.regions is not None]
    present = torch.zeros(len(samples), len(rows), dtype=torch.bool)
    for image, sample in enumerate(samples):
        present[image, [rows[name] for name in sample.names]] = True
    return ConceptBatch(
        kind=kind,  # type: ignore[arg-type] # no source of concepts is image-level
        images=pad([sample.image for sample in samples], multiple),
        targets=[_relabelled(sample, rows) for sample in samples],
        vocabulary=Vocabulary(rows),
        present=present,
        captions=tuple(sample.caption for sample in samples),
        records=[sample.record for sample in samples],
        verified=None if kind == "pairs" else _verified(samples, [*rows]),
        regions=regions or None,
    )


def _relabelled(sample: ConceptSample, rows: Mapping[str, int]) -> Targets:
    columns = torch.tensor([rows[name] for name in sample.names], dtype=torch.int64)
    return Targets(sample.targets.boxes, columns[sample.targets.labels])


def _verified(samples: Sequence[ConceptSample], names: Sequence[str]) -> Bool[Tensor, "B K"]:
    """Returns of which concepts the boxes of an image verify presence or absence.

    A concept all of whose words are in the caption, but that is none of the phrases with boxes,
    may well be there: "man" beside the phrase "tall man".
    """
    verified = []
    for sample in samples:
        if sample.known is not None:
            verified.append([name in sample.known for name in names])
            continue
        caption = word_set(sample.caption)
        verified.append([name in sample.names or not word_set(name) <= caption for name in names])
    return torch.tensor(verified, dtype=torch.bool).reshape(len(samples), len(names))
