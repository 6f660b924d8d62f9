"""The loader of training batches: two kinds of them, and exact resumption."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from gridclip.data.collate import Collate, CollateImages
from gridclip.data.dataset import DetectionDataset
from gridclip.data.sampling import Draw, MixedSampler
from gridclip.data.unboxed.image_level import ImageLevelSource
from gridclip.structures import ConceptBatch, DetectionBatch, ImageBatch

Batch = DetectionBatch | ImageBatch | ConceptBatch
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
        self.collate = Collate(detection.vocabulary, multiple, detection.shares)
        if image_level is not None:
            self.collate_images = CollateImages(image_level.vocabulary, multiple)

    def __getitem__(self, draws: list[Draw]) -> Batch:
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
