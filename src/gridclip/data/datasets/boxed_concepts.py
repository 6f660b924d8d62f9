"""Hybrid data with boxes, of categories or of a caption's phrases, and negatives of each image."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gridclip.data.annotations.repair import Faults
from gridclip.data.category_names import read_names
from gridclip.data.datasets.concepts import ConceptSample, ConceptSource, Stream, generators
from gridclip.data.datasets.detection import (
    DetectionDataset,
    ImageExtras,
    Sample,
    check_images,
    digest,
    fingerprint,
)
from gridclip.data.datasets.grounding import Grounding, read_grounding
from gridclip.data.datasets.noun_phrases import word_set
from gridclip.data.forms.place import DataPlace, PlacedAnnotations
from gridclip.data.sampling import SampleIndex, SamplingPool
from gridclip.data.transforms.augment import TrainingTransform
from gridclip.data.vocabulary import LabelMap, RareSplit, label_map, verified_names
from gridclip.io.errors import require_at_least
from gridclip.structures import Targets, Vocabulary

_DRAWN = 4  # concepts drawn for each negative that is wanted, as the caption may name some


@dataclass(frozen=True, kw_only=True)
class DetectionSource(Stream):
    """Images whose boxes have categories.

    Args:
        root: Folder of the data set: with the file below, or of YOLO, VOC or LabelMe form.
        train: Annotation file of LVIS, COCO or Objects365 form, relative to root.
        images: Folder of the images, relative to root.
        concepts: Categories an image is trained with: its own, and others drawn at random that it
            does not show, up to this number. Images of a batch share theirs.
        rare_split: base_only leaves rare categories and their boxes out; all keeps them.
        keep_empty: Whether to train on images without boxes, as pure negatives.
        faults: Whether a file with faults is refused, or what is at fault is dropped and logged.
        verified: Whether only categories that an image verifies (by boxes or `neg_category_ids`)
            count as absent from it, as in the federated annotations of LVIS; only they are drawn.
        repeat_threshold: Repeat-factor sampling, as in DetectionData.
    """

    root: str
    train: str = "train.json"
    images: str = "images"
    concepts: int = 150
    rare_split: RareSplit = "base_only"
    keep_empty: bool = True
    faults: Faults = "refuse"
    verified: bool = False
    repeat_threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, concepts=self.concepts)
        require_at_least(0, repeat_threshold=self.repeat_threshold)


class BoxedConcepts(ConceptSource):
    """The images of a data set with boxes; the concepts of an image are what its boxes show."""

    @property
    @abstractmethod
    def dataset(self) -> DetectionDataset:
        """The images with their boxes; labels are rows of all concepts that have boxes."""

    def check(self) -> None:
        """Refuses images that are absent or of another size than listed."""
        check_images(self.dataset.annotations, self.dataset.folder)

    def names(self) -> list[str]:
        """Returns every concept that has a box."""
        return [*self.dataset.vocabulary.names]


class DetectionConcepts(BoxedConcepts):
    """The images of a detection source with the categories they show, and some that they do not.

    Args:
        source: The files and settings.
        seed: Of augmentation and negatives.
    """

    def __init__(self, source: DetectionSource, seed: int = 0) -> None:
        self.source, self.seed = source, seed

    @cached_property
    def placed(self) -> PlacedAnnotations:
        """The file, read, and the folder of its images."""
        source = self.source
        place = DataPlace(Path(source.root), source.train, source.images, "train")
        return place.read(source.faults)

    @cached_property
    def dataset(self) -> DetectionDataset:
        """Its images with the boxes that the rare split leaves."""
        annotations, images = self.placed
        labels = label_map(annotations, self.source.rare_split)
        known = verified_names(annotations, labels) if self.source.verified else None
        dataset = DetectionDataset(
            annotations,
            images,
            labels,
            TrainingTransform(self.source.resize, self.source.augmentation),
            seed=self.seed,
            keep_empty=self.source.keep_empty,
            mosaic=self.source.augmentation.joined,
            extras=ImageExtras(verified=known),
        )
        dataset.require_boxes(self.source.rare_split, "data.detection.rare_split")
        return dataset

    @cached_property
    def pool(self) -> SamplingPool:
        """What a sampler draws from."""
        source = self.source
        return self.dataset.pool(source.batch_size, source.repeat_threshold, source.ratio)

    def state(self) -> dict[str, str | int | float | bool | None]:
        """Returns what decides which images and categories a step sees."""
        kept = ("batch_size", "ratio", "concepts", "verified", "repeat_threshold")
        return {
            **{name: getattr(self.source, name) for name in kept},
            "images": fingerprint(self.dataset),
        }

    def __getitem__(self, draw: SampleIndex) -> ConceptSample:
        """Reads one image, and draws categories that it does not show.

        Which of its categories are positive is up to the view: one whose boxes a crop has left out
        is not, and is not drawn as a negative either, since a part may still be sample.
        """
        sample, image = self.dataset[draw], int(self.dataset.images[draw.row])
        names = self.dataset.vocabulary.names
        positive, labels = torch.unique(sample.targets.labels, return_inverse=True)
        absent, known = self._absent_and_known(draw, sample, positive)
        _, rng = generators(self.seed, draw, image)
        others = np.flatnonzero(absent)
        count = min(len(others), max(0, self.source.concepts - len(positive)))
        negatives = rng.choice(others, count, replace=False)
        return ConceptSample(
            image=sample.image,
            names=tuple(names[row] for row in positive.tolist()),
            targets=Targets(sample.targets.boxes, labels),
            negatives=tuple(names[row] for row in negatives.tolist()),
            record=sample.record,
            known=frozenset(names[row] for row in np.flatnonzero(known).tolist()),
        )

    def _absent_and_known(
        self, draw: SampleIndex, sample: Sample, positive: Int[Tensor, "P"]
    ) -> tuple[Bool[np.ndarray, "K"], Bool[np.ndarray, "K"]]:
        """Returns which categories an image does not show, and of which its boxes say either."""
        absent = np.ones(len(self.dataset.vocabulary), dtype=bool)
        if sample.verified is not None:
            absent = sample.verified.numpy().copy()
        for image in self.dataset.shown(draw):
            absent[self.dataset.labels.of(image)] = False
        known = absent.copy()
        known[positive] = True
        if sample.verified is not None:  # what is not exhaustively boxed is not known either
            known &= sample.verified.numpy()
        return absent, known


@dataclass(frozen=True, kw_only=True)
class GroundingSource(Stream):
    """Images with a caption, of which some phrases have boxes.

    Args:
        file: Grounding file in MDETR's form.
        images: Folder of the images.
        concepts: Concepts an image is trained with: its own phrases, and others drawn at random
            that its caption does not name, up to this number.
        dictionary: File of names to draw the others from, such as `gridclip data concepts` writes.
            Without it: the phrases of the file, and the names of the detection source.
    """

    file: str
    images: str
    concepts: int = 100
    dictionary: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.augmentation.require_single("phrases are")
        require_at_least(1, concepts=self.concepts)


class GroundingConcepts(BoxedConcepts):
    """The images of a grounding source with their phrases, and concepts that they do not show.

    Args:
        source: The files and settings.
        seed: Of augmentation and negatives.
        others: Names that are added to the phrases where no dictionary is given.
    """

    def __init__(self, source: GroundingSource, seed: int = 0, others: Sequence[str] = ()) -> None:
        self.source, self.seed, self.others = source, seed, others

    @cached_property
    def grounding(self) -> Grounding:
        """The file, read."""
        return read_grounding(Path(self.source.file))

    @cached_property
    def dataset(self) -> DetectionDataset:
        """Its images that have a box; the labels are rows of all phrases."""
        annotations = self.grounding.annotations
        phrases = Vocabulary(category.name for category in annotations.categories)
        return DetectionDataset(
            annotations,
            Path(self.source.images),
            LabelMap(phrases, np.arange(len(phrases))),
            TrainingTransform(self.source.resize, self.source.augmentation),
            seed=self.seed,
            keep_empty=False,
        )

    @cached_property
    def dictionary(self) -> Sequence[str]:
        """What negatives are drawn from, each once."""
        if self.source.dictionary is not None:
            return read_names(Path(self.source.dictionary)).names
        return tuple(dict.fromkeys([*self.dataset.vocabulary.names, *self.others]))

    @cached_property
    def pool(self) -> SamplingPool:
        """What a sampler draws from."""
        return self.dataset.pool(self.source.batch_size, ratio=self.source.ratio)

    def check(self) -> None:
        """Refuses images that cannot be read, and a dictionary that cannot."""
        super().check()
        _ = self.dictionary

    def state(self) -> dict[str, str | int | float | bool | None]:
        """Returns what decides which images and concepts a step sees."""
        texts = digest(self.dictionary, [self.grounding.captions.characters])
        return {
            **{name: getattr(self.source, name) for name in ("batch_size", "ratio", "concepts")},
            "images": fingerprint(self.dataset),
            "captions and dictionary": texts,
        }

    def __getitem__(self, draw: SampleIndex) -> ConceptSample:
        """Reads one image, and draws concepts that its caption does not name."""
        sample, image = self.dataset[draw], int(self.dataset.images[draw.row])
        caption = self.grounding.captions.of(image)
        positive, labels = torch.unique(sample.targets.labels, return_inverse=True)
        phrases = tuple(self.dataset.vocabulary.names[row] for row in positive.tolist())
        _, rng = generators(self.seed, draw, image)
        return ConceptSample(
            image=sample.image,
            names=phrases,
            targets=Targets(sample.targets.boxes, labels),
            negatives=self._negatives(phrases, caption, rng),
            record=sample.record,
            caption=caption,
        )

    def _negatives(
        self, phrases: tuple[str, ...], caption: str, rng: np.random.Generator
    ) -> tuple[str, ...]:
        wanted = max(0, self.source.concepts - len(phrases))
        count = min(_DRAWN * wanted, len(self.dictionary))
        drawn = rng.choice(len(self.dictionary), count, replace=False).tolist()
        words = word_set(caption)
        found = (self.dictionary[row] for row in drawn)
        return tuple(name for name in found if not word_set(name) <= words)[:wanted]
