"""Samples of one kind into a batch: one list of concepts for all, each string once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gridclip.data.datasets.concepts import ConceptSample, ConceptSource
from gridclip.data.datasets.detection import DetectionDataset, Sample
from gridclip.data.datasets.image_level import ImageLevelSource, ImageSample
from gridclip.data.datasets.noun_phrases import word_set
from gridclip.data.sampling import Kind, MixedSampler, Position, SampleIndex
from gridclip.io.errors import InputError
from gridclip.ops.images import pad
from gridclip.structures import (
    Batch,
    ConceptBatch,
    DetectionBatch,
    ImageBatch,
    Targets,
    Vocabulary,
)

Part = TypeVar("Part")


class Collate:
    """Makes a batch of samples that share a vocabulary.

    Args:
        vocabulary: What the labels are rows of.
        multiple: As in `pad`.
        category_frequency: Share of the training images that show each category; evaluation has
            none.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        multiple: int = 32,
        category_frequency: Float[Tensor, "K"] | None = None,
    ) -> None:
        self.vocabulary, self.multiple = vocabulary, multiple
        self.category_frequency = category_frequency

    def __call__(self, samples: list[Sample]) -> DetectionBatch:
        """Pad and gather."""
        return DetectionBatch(
            images=pad([sample.image for sample in samples], self.multiple),
            targets=[sample.targets for sample in samples],
            vocabulary=self.vocabulary,
            records=[sample.record for sample in samples],
            verified=_stack([sample.verified for sample in samples]),
            teacher=_stack([sample.teacher for sample in samples]),
            category_frequency=self.category_frequency,
            regions=_all([sample.regions for sample in samples]),
        )


class CollateImages(Collate):
    """The same of images without boxes; the vocabulary is what the scores are of."""

    def __call__(self, samples: list[ImageSample]) -> ImageBatch:  # type: ignore[override]
        """Pad and gather."""
        return ImageBatch(
            images=pad([sample.image for sample in samples], self.multiple),
            scores=torch.stack([sample.scores for sample in samples]),
            vocabulary=self.vocabulary,
            records=[sample.record for sample in samples],
            teacher=_stack([sample.teacher for sample in samples]),
        )


def _all(values: Sequence[Part | None]) -> list[Part] | None:
    """Give what all have; what one lacks all lack, because a data set has it or not."""
    return [value for value in values if value is not None] or None


def _stack(values: list[Tensor | None]) -> Tensor | None:
    present = _all(values)
    return None if present is None else torch.stack(present)


Whole = TypeVar("Whole")


class Batches(Dataset[Batch]):
    """Whole batches by their draws, so that one loader can mix both kinds.

    Args:
        detection: Images with boxes.
        image_level: Images without, if any.
        multiple: As in `pad`.
    """

    def __init__(
        self,
        detection: DetectionDataset,
        image_level: ImageLevelSource | None = None,
        multiple: int = 32,
    ) -> None:
        self.detection, self.image_level = detection, image_level
        self.collate = Collate(detection.vocabulary, multiple, detection.category_frequency)
        if image_level is not None:
            self.collate_images = CollateImages(image_level.vocabulary, multiple)

    def __getitem__(self, draws: list[SampleIndex]) -> Batch:
        """Read, transform and pad the images of one batch, all of one kind."""
        if draws[0].source == "detection":
            return self.collate([self.detection[draw] for draw in draws])
        assert self.image_level is not None  # or nobody would have drawn from it
        return self.collate_images([self.image_level[draw] for draw in draws])


class TrainingLoader(DataLoader[Batch]):
    """Loads the batches that a sampler draws.

    Args:
        batches: Whole batches by their draws.
        sampler: What to load.
        num_workers: Loading processes; 0 loads in this one.
    """

    def __init__(self, batches: Dataset[Batch], sampler: MixedSampler, num_workers: int) -> None:
        super().__init__(
            batches,
            batch_size=None,  # the sampler draws whole batches
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Begin to load with the first batch that is asked for, not sooner.

        Lightning calls this before it restores its counters of epoch and step (the learning rate's
        schedule asks for the number of steps), and workers would run ahead from the wrong place.
        """
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing, as the trainer's counters say it all; but now Lightning knows it can go on."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


def start_worker(worker: int) -> None:
    """Keep OpenCV to the worker's own core, and out of thread pools that a fork has broken."""
    import cv2

    cv2.setNumThreads(0)


def _unchanged(batch: Whole) -> Whole:
    return batch


class ConceptBatches(Dataset[ConceptBatch]):
    """Whole batches by their draws, all of one kind each.

    Args:
        sources: Images by their kind.
        multiple: Height and width of a batch are multiples of this, in pixels.
    """

    def __init__(self, sources: Mapping[Kind, ConceptSource], multiple: int = 32) -> None:
        self.sources, self.multiple = dict(sources), multiple

    def __getitem__(self, draws: list[SampleIndex]) -> ConceptBatch:
        """Read, transform and pad the images of one batch."""
        kind = draws[0].source
        samples = [self.sources[kind][draw] for draw in draws]
        return gather(kind, samples, self.multiple)


class InOrder(Dataset[ConceptBatch]):
    """The same few batches, in the same order: what `overfit_batches` asks for.

    Args:
        batches: Where from.
        draws: Of each batch.
    """

    def __init__(self, batches: ConceptBatches, draws: list[list[SampleIndex]]) -> None:
        self.batches, self.draws = batches, draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> ConceptBatch:
        """Read one batch."""
        return self.batches[self.draws[index]]


def gather(kind: Kind, samples: Sequence[ConceptSample], multiple: int = 32) -> ConceptBatch:
    """Pad the images, and bring all concepts into one list.

    What is said of any image comes first, in the order of the images; then what none of them
    shows. A label moves to the row that its name has there.

    Args:
        kind: Of all samples.
        samples: At least one.
        multiple: As in `pad`.
    """
    said = (name for sample in samples for name in sample.names)
    drawn = (name for sample in samples for name in sample.negatives)
    rows = {name: row for row, name in enumerate(dict.fromkeys([*said, *drawn]))}
    regions = [sample.regions for sample in samples if sample.regions is not None]
    present = torch.zeros(len(samples), len(rows), dtype=torch.bool)
    for image, sample in enumerate(samples):
        present[image, [rows[name] for name in sample.names]] = True
    return ConceptBatch(
        kind=kind,  # type: ignore[arg-type] # no hybrid source is of the image-level kind
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
    """Tell of which concepts the boxes of an image show presence or absence.

    A concept all of whose words stand in the caption, but that is none of the phrases with boxes,
    may well be there: "man" beside the phrase "tall man".
    """
    told = []
    for sample in samples:
        if sample.known is not None:
            told.append([name in sample.known for name in names])
            continue
        said = word_set(sample.caption)
        told.append([name in sample.names or not word_set(name) <= said for name in names])
    return torch.tensor(told, dtype=torch.bool).reshape(len(samples), len(names))


def position(trainer: Trainer) -> Position:
    """Where a training is by the trainer's own counters, which its checkpoints keep.

    To be asked when the first batch of an epoch, or of the rest of one, is wanted: by then
    Lightning has restored and mended them. `ready` counts batches handed out for training.
    """
    done: int = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return Position(trainer.current_epoch, done)


def require_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what decides which images a step sees, of a checkpoint and of this training.

    Raises:
        InputError: naming all that differs.
    """
    different = [name for name in now if name in before and before[name] != now[name]]
    if different:
        told = "; ".join(f"{name} was {before[name]}, now {now[name]}" for name in different)
        raise InputError(
            f"the checkpoint's training went otherwise: {told}",
            field="--ckpt_path",
            fix="resume it as it began, or begin a new training with its weights by "
            "--model.init_from",
        )
