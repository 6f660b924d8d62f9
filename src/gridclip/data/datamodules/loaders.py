"""From data sets to batches: padding, loading, and where a resumed training goes on."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gridclip.data.datasets.detection import DetectionDataset, Sample
from gridclip.data.datasets.image_level import ImageLevelSource, ImageSample
from gridclip.data.sampling import MixedSampler, Position, SampleIndex
from gridclip.io.errors import InputError
from gridclip.ops.images import pad
from gridclip.structures import Batch, DetectionBatch, ImageBatch, Vocabulary

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
        """Returns the samples as one batch, images padded."""
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


class ReadBatch(NamedTuple):
    """What could be read of the images of a batch, and what is wrong with the others."""

    readable: DetectionBatch | None  # None: not one
    unread: list[str]


class Readable(Dataset[Sample | str]):
    """A data set that goes on where an image cannot be read, and says why instead.

    For predictions: a training or an evaluation that leaves images out is another one.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Sample | str:
        """Reads one image, or returns what is wrong with it."""
        try:
            return self.dataset[row]
        except InputError as error:
            return str(error)


class CollateReadable(Collate):
    """Makes a batch of those samples that are there."""

    def __call__(self, samples: list[Sample | str]) -> ReadBatch:  # type: ignore[override]
        """Returns them as one batch, images padded, with what is wrong with the others."""
        found = [sample for sample in samples if not isinstance(sample, str)]
        unread = [sample for sample in samples if isinstance(sample, str)]
        return ReadBatch(super().__call__(found) if found else None, unread)


class CollateImages(Collate):
    """Makes a batch of images without boxes; the scores are of the vocabulary."""

    def __call__(self, samples: list[ImageSample]) -> ImageBatch:  # type: ignore[override]
        """Returns the samples as one batch, images padded."""
        return ImageBatch(
            images=pad([sample.image for sample in samples], self.multiple),
            scores=torch.stack([sample.scores for sample in samples]),
            vocabulary=self.vocabulary,
            records=[sample.record for sample in samples],
            teacher=_stack([sample.teacher for sample in samples]),
        )


def _all(values: Sequence[Part | None]) -> list[Part] | None:
    """Returns what all samples have; a data set has it of every image or of none."""
    return [value for value in values if value is not None] or None


def _stack(values: list[Tensor | None]) -> Tensor | None:
    present = _all(values)
    return None if present is None else torch.stack(present)


class Batches(Dataset[Batch]):
    """Reads whole batches, padded as by `pad`, so that one loader can mix both kinds."""

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
        """Reads, transforms and pads the images of one batch, all of one kind."""
        if draws[0].source == "detection":
            return self.collate([self.detection[draw] for draw in draws])
        assert self.image_level is not None  # or nobody would have drawn from it
        return self.collate_images([self.image_level[draw] for draw in draws])


class TrainingLoader(DataLoader[Batch]):
    """Loads the batches that a sampler draws.

    Args:
        batches: Reads a batch by the images drawn for it.
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
        """Starts to load when the first batch is asked for, not sooner.

        Lightning calls this before it restores its counters of epoch and step (the learning rate's
        schedule asks for the number of steps), and workers would run ahead from the wrong place.
        """
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing, as the trainer's counters suffice; Lightning asks that it exists."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores nothing."""


def start_worker(worker: int) -> None:
    """Keeps OpenCV to the worker's own core, and out of thread pools that a fork has broken."""
    import cv2

    cv2.setNumThreads(0)


def _unchanged(batch: Part) -> Part:
    return batch


def position(trainer: Trainer) -> Position:
    """Returns where a training is by the trainer's own counters, which its checkpoints keep.

    It is called when the first batch of an epoch, or of the rest of one, is wanted: by then
    Lightning has restored and mended them. `ready` counts batches handed out for training.
    """
    done: int = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return Position(trainer.current_epoch, done)


def require_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to resume a training whose settings decide otherwise which images a step sees.

    Args:
        before: Those settings in the checkpoint.
        now: The same of this training.

    Raises:
        InputError: naming all that differs.
    """
    different = [name for name in now if name in before and before[name] != now[name]]
    if different:
        changes = "; ".join(f"{name} was {before[name]}, now {now[name]}" for name in different)
        raise InputError(
            f"the checkpoint's training went otherwise: {changes}",
            field="--ckpt_path",
            fix="resume it as it began, or begin a new training with its weights by "
            "--model.init_from",
        )
