"""An LVIS- or COCO-form data set, from its folder to batches."""

from functools import cached_property
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from gridclip.data.collate import Collate, Sample
from gridclip.data.dataset import DetectionDataset
from gridclip.data.lvis import Annotations, read_annotations
from gridclip.data.pictures import check_pictures
from gridclip.data.sampling import EpochSampler
from gridclip.data.transforms import Augmentation, EvaluationTransform, Resize, TrainingTransform
from gridclip.data.vocabulary import RareSplit, label_map
from gridclip.errors import InputError

_TRAIN_RESIZE = Resize(shortest=(640, 672, 704, 736, 768, 800), longest=1333)
_VAL_RESIZE = Resize(shortest=(800,), longest=1333)
_AUGMENTATION = Augmentation()


class DetectionData(lightning.LightningDataModule):
    """Boxes for training and evaluation.

    Training uses the names that `rare_split` leaves; evaluation always uses every name of the
    evaluation file. Everything is read and checked in `setup`, before training.

    Args:
        root: Folder of the data set.
        train: Annotation file to train on, relative to root.
        val: Annotation file to evaluate on, relative to root.
        images: Folder of the pictures, relative to root.
        rare_split: base_only leaves rare names and their boxes out of training; all keeps them.
        keep_empty: Whether to train on images without boxes, as pure negatives.
        batch_size: Training images a process and step.
        val_batch_size: Evaluation images a process and step.
        num_workers: Loading processes beside each training process; 0 loads in it.
        resize: Size of training pictures; one of the shortest sides is drawn for each.
        augmentation: What chance does to training pictures.
        val_resize: Size of evaluation pictures.
        pad_to: Height and width of a batch are multiples of this, in pixels.
        seed: Of order and augmentation.
    """

    def __init__(
        self,
        root: str,
        train: str = "train.json",
        val: str = "val.json",
        images: str = "images",
        rare_split: RareSplit = "base_only",
        keep_empty: bool = True,
        batch_size: int = 2,
        val_batch_size: int = 2,
        num_workers: int = 2,
        resize: Resize = _TRAIN_RESIZE,
        augmentation: Augmentation = _AUGMENTATION,
        val_resize: Resize = _VAL_RESIZE,
        pad_to: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require_at_least(1, batch_size=batch_size, val_batch_size=val_batch_size, pad_to=pad_to)
        _require_at_least(0, num_workers=num_workers, seed=seed)
        self.root = Path(root)
        self.train_annotations = self.root / train
        self.val_annotations = self.root / val
        self.images = self.root / images
        self.rare_split: RareSplit = rare_split
        self.keep_empty = keep_empty
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.num_workers, self.pad_to, self.seed = num_workers, pad_to, seed
        self.resize, self.augmentation = resize, augmentation
        self.val_transform = EvaluationTransform(val_resize)

    def setup(self, stage: str | None = None) -> None:
        """Read and check what the stage needs.

        Raises:
            InputError: if a file or a picture is absent or wrong.
        """
        if stage in (None, "fit"):
            check_pictures(self.train_set.annotations, self.images)
        check_pictures(self.val_set.annotations, self.images)

    @cached_property
    def train_set(self) -> DetectionDataset:
        """The training images, augmented, with the boxes of the training vocabulary."""
        annotations = self._read(self.train_annotations)
        dataset = DetectionDataset(
            annotations,
            self.images,
            label_map(annotations, self.rare_split),
            TrainingTransform(self.resize, self.augmentation),
            seed=self.seed,
            keep_empty=self.keep_empty,
        )
        if not len(dataset.labels.values):
            raise InputError(
                f"no box is left to train on (rare_split is {self.rare_split})",
                fix="give a file with boxes, or set data.rare_split=all",
                file=self.train_annotations,
                field="annotations",
            )
        return dataset

    @cached_property
    def val_set(self) -> DetectionDataset:
        """The evaluation images, with the boxes of every name."""
        annotations = self._read(self.val_annotations)
        labels = label_map(annotations, "all")
        return DetectionDataset(annotations, self.images, labels, self.val_transform)

    @property
    def category_ids(self) -> Tensor:
        """Id in the evaluation file for each row of the evaluation vocabulary, int64, K."""
        return torch.tensor([category.id for category in self.val_set.annotations.categories])

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffle by (seed, epoch), in every process its share."""
        trainer = self.trainer
        sampler = EpochSampler(
            self.train_set,
            seed=self.seed,
            processes=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            current_epoch=(lambda: trainer.current_epoch) if trainer else None,
        )
        return self._loader(self.train_set, self.batch_size, sampler)

    def val_dataloader(self) -> DataLoader[Sample]:
        """In the order of the file; Lightning shares it out among processes."""
        return self._loader(self.val_set, self.val_batch_size)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def _read(self, file: Path) -> Annotations:
        if not file.is_file():
            draw = f"gridclip data mini {self.root}"
            other = "set data.root to the folder that holds it"
            raise InputError(
                "the annotation file does not exist",
                fix=f"draw it: {draw}"
                if self.root.name == "mini"
                else f"{other}, or draw the mini data set: gridclip data mini data/mini",
                file=file,
            )
        return read_annotations(file)

    def _loader(
        self, dataset: DetectionDataset, batch_size: int, sampler: EpochSampler | None = None
    ) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=Collate(dataset.vocabulary, self.pad_to),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            persistent_workers=self.num_workers > 0,
        )


def _start_worker(worker: int) -> None:
    """Keep OpenCV to the worker's own core, and out of thread pools that a fork has broken."""
    import cv2

    cv2.setNumThreads(0)


def _require_at_least(least: int, **values: int) -> None:
    for field, value in values.items():
        if value < least:
            raise InputError(f"{value} is below {least}", fix=f"give {least} or more", field=field)
