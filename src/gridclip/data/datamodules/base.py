"""What every data module with an annotation file to evaluate on has in common."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gridclip.data.annotations.groups import add_groups
from gridclip.data.datamodules.loaders import (
    Collate,
    CollateReadable,
    Readable,
    require_same,
    start_worker,
)
from gridclip.data.datasets.detection import DetectionDataset, Sample
from gridclip.data.forms.place import DataPlace
from gridclip.data.precomputed.stored import StoredByPath
from gridclip.data.transforms.augment import EvaluationTransform, Resize
from gridclip.data.vocabulary import label_map
from gridclip.io.errors import InputError, require_at_least


class Evaluated(NamedTuple):
    """What is evaluated on."""

    place: DataPlace
    folder: str | None  # only the images of this folder, if it is given
    batch_size: int  # of a process and step
    resize: Resize
    groups: Path | None = None  # named groups of categories, beside those of the annotations
    masks: bool = False  # whether every object has a mask, and it is read


class EvaluatedData(lightning.LightningDataModule):
    """Evaluation on every name of an annotation file, and resumption only as it began.

    Args:
        evaluated: What is evaluated on, if anything is.
        num_workers: Loading processes beside each training process; 0 loads in it.
        pad_to: Height and width of a batch are multiples of this, in pixels.

    Attributes:
        val_annotations: The annotation file; absent if nothing is evaluated.
    """

    def __init__(self, evaluated: Evaluated | None, num_workers: int, pad_to: int) -> None:
        super().__init__()
        require_at_least(0, num_workers=num_workers)
        require_at_least(1, pad_to=pad_to)
        self.evaluated, self.num_workers, self.pad_to = evaluated, num_workers, pad_to
        if evaluated is not None:
            require_at_least(1, val_batch_size=evaluated.batch_size)
            self.val_annotations = evaluated.place.annotations
            self.val_transform = EvaluationTransform(evaluated.resize)

    @property
    def mixed(self) -> bool:
        """Whether a batch may leave weights out that other batches train."""
        return False

    @property
    def stored_embeddings(self) -> Mapping[str, StoredByPath]:
        """What batches carry of a teacher's embeddings, by the setting that names the file."""
        return {}

    @cached_property
    def val_set(self) -> DetectionDataset:
        """The evaluation images, with the boxes of every name."""
        if self.evaluated is None:
            fix = "set data.init_args.root to the folder of a data set with boxes"
            raise InputError("there is nothing to evaluate on", field="data.root", fix=fix)
        annotations, images = self.evaluated.place.read(
            folder=self.evaluated.folder, rules="validation", masks=self.evaluated.masks
        )
        if self.evaluated.groups is not None:
            annotations = add_groups(annotations, self.evaluated.groups)
        labels = label_map(annotations, "all")
        return DetectionDataset(annotations, images, labels, self.val_transform)

    @property
    def category_ids(self) -> Tensor:
        """Id in the evaluation file for each row of the evaluation vocabulary, int64, K."""
        return torch.tensor([category.id for category in self.val_set.annotations.categories])

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Loads in the order of the file; Lightning shares it out among processes."""
        if self.evaluated is None:
            return []
        return self.in_order(self.val_set, self.evaluated.batch_size)

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> DataLoader[Sample | str] | list[Any]:
        """Loads as for evaluation; an image that cannot be read is left out, and named."""
        if self.evaluated is None:
            return []
        collate = CollateReadable(self.val_set.vocabulary, self.pad_to)
        return self._loader(Readable(self.val_set), self.evaluated.batch_size, collate)

    def in_order(self, dataset: DetectionDataset, batch_size: int) -> DataLoader[Sample]:
        """Loads images in their order."""
        return self._loader(dataset, batch_size, Collate(dataset.vocabulary, self.pad_to))

    def _loader(self, dataset: Dataset[Any], batch_size: int, collate: Collate) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to resume a training with other settings.

        Raises:
            InputError: naming what differs, before any step.
        """
        if self.trainer and self.trainer.state.fn == "fit":
            require_same(state_dict, self.state_dict())
