"""Categories with boxes: LVIS, COCO or Objects365 form, with negatives drawn for each image."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from gridclip.data.annotations.reader import read_folder
from gridclip.data.annotations.repair import Faults
from gridclip.data.annotations.table import Annotations
from gridclip.data.datasets.concepts import ConceptSample, ConceptSource, Stream, chances
from gridclip.data.datasets.detection import (
    DetectionDataset,
    ImageExtras,
    check_images,
    fingerprint,
)
from gridclip.data.sampling import SampleIndex, SamplingPool
from gridclip.data.transforms.augment import TrainingTransform
from gridclip.data.vocabulary import RareSplit, label_map, verified_names
from gridclip.io.errors import InputError, require_at_least
from gridclip.structures import Targets


@dataclass(frozen=True, kw_only=True)
class DetectionSource(Stream):
    """Images whose boxes have categories.

    Args:
        root: Folder of the data set.
        train: Annotation file of LVIS, COCO or Objects365 form, relative to root.
        images: Folder of the images, relative to root.
        concepts: Names an image is trained with: its own, and others drawn by chance that it does
            not show, up to this number. Images of a batch share their names.
        rare_split: base_only leaves rare names and their boxes out; all keeps them.
        keep_empty: Whether to train on images without boxes, as pure negatives.
        faults: What to do where the file is at fault: refuse it, or drop what is, and log it.
        verified: Whether only names that an image verifies (by boxes or `neg_category_ids`) count
            as absent from it, as in the federated annotations of LVIS. Only such are drawn then.
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


class DetectionConcepts(ConceptSource):
    """The images of a detection source with the names that they show, and some that they do not.

    Args:
        source: What and how.
        seed: Of augmentation and negatives.
    """

    def __init__(self, source: DetectionSource, seed: int = 0) -> None:
        self.source, self.seed = source, seed
        self.folder = Path(source.root) / source.images

    @cached_property
    def annotations(self) -> Annotations:
        """The file, read."""
        return read_folder(Path(self.source.root) / self.source.train, self.source.faults)

    @cached_property
    def dataset(self) -> DetectionDataset:
        """Its images with the boxes that the rare split leaves."""
        labels = label_map(self.annotations, self.source.rare_split)
        known = verified_names(self.annotations, labels) if self.source.verified else None
        dataset = DetectionDataset(
            self.annotations,
            self.folder,
            labels,
            TrainingTransform(self.source.resize, self.source.augmentation),
            seed=self.seed,
            keep_empty=self.source.keep_empty,
            mosaic=self.source.augmentation.joined,
            beside=ImageExtras(verified=known),
        )
        if not len(dataset.labels.values):
            raise InputError(
                f"no box is left to train on (rare_split is {self.source.rare_split})",
                fix="give a file with boxes, or set data.detection.rare_split=all",
                file=self.annotations.file,
                field="annotations",
            )
        return dataset

    @cached_property
    def pool(self) -> SamplingPool:
        """What a sampler draws from."""
        source = self.source
        return self.dataset.pool(source.batch_size, source.repeat_threshold, source.ratio)

    def check(self) -> None:
        """Refuse what cannot be read."""
        check_images(self.dataset.annotations, self.folder)

    def names(self) -> list[str]:
        """The names that are trained on."""
        return [*self.dataset.vocabulary.names]

    def state(self) -> dict[str, str | int | float | bool | None]:
        """What decides which images and names a step sees."""
        kept = ("batch_size", "ratio", "concepts", "verified", "repeat_threshold")
        return {
            **{name: getattr(self.source, name) for name in kept},
            "images": fingerprint(self.dataset),
        }

    def __getitem__(self, draw: SampleIndex | int) -> ConceptSample:
        """Read one image, and draw names that it does not show.

        Which of its names are positive is up to the view: one whose boxes a crop has left out is
        not, and is not drawn as a negative either, since a part may still be seen.
        """
        draw = draw if isinstance(draw, SampleIndex) else SampleIndex(row=draw, epoch=0)
        seen, image = self.dataset[draw], int(self.dataset.images[draw.row])
        names = self.dataset.vocabulary.names
        positive, labels = torch.unique(seen.targets.labels, return_inverse=True)
        absent = np.ones(len(names), dtype=bool)
        if seen.verified is not None:
            absent = seen.verified.numpy().copy()
        for part in self.dataset.shown(draw):
            absent[self.dataset.labels.of(part)] = False
        known = absent.copy()
        known[positive] = True
        if seen.verified is not None:  # what is not exhaustively boxed is not known either
            known &= seen.verified.numpy()
        _, chance = chances(self.seed, draw, image)
        others = np.flatnonzero(absent)
        count = min(len(others), max(0, self.source.concepts - len(positive)))
        drawn = chance.choice(others, count, replace=False)
        return ConceptSample(
            image=seen.image,
            names=tuple(names[row] for row in positive.tolist()),
            targets=Targets(seen.targets.boxes, labels),
            negatives=tuple(names[row] for row in drawn.tolist()),
            record=seen.record,
            known=frozenset(names[row] for row in np.flatnonzero(known).tolist()),
        )
