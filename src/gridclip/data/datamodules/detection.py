"""An LVIS- or COCO-form data set, from its folder to batches."""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from gridclip.data.annotations.repair import Faults
from gridclip.data.datamodules.base import Evaluated, EvaluatedData
from gridclip.data.datamodules.loaders import Batches, TrainingLoader, position
from gridclip.data.datasets.detection import (
    HEADERS_READ,
    DetectionDataset,
    ImageExtras,
    check_images,
    fingerprint,
)
from gridclip.data.datasets.image_level import ImageLevelSource
from gridclip.data.forms.place import DataPlace
from gridclip.data.precomputed.stored import StoredByPath, StoredEmbeddings, StoredRegions
from gridclip.data.sampling import ALONE, Kind, MixedSampler, RankShard, SamplingPool
from gridclip.data.transforms.augment import (
    AUGMENTATION,
    TRAIN_RESIZE,
    VAL_RESIZE,
    Augmentation,
    Resize,
    TrainingTransform,
)
from gridclip.data.vocabulary import RareSplit, label_map, verified_names
from gridclip.io.errors import InputError, require_at_least, require_fraction

logger = logging.getLogger(__name__)


class DetectionData(EvaluatedData):
    """Boxes for training and evaluation.

    Training uses the names that `rare_split` leaves; evaluation always uses every name of the
    evaluation file. Everything is read and checked in `setup`, before training.

    Args:
        root: Folder of the data set: with LVIS- or COCO-form files, or one of YOLO, VOC or LabelMe,
            whose parts are then found by their names (train; val or valid).
        train: Annotation file to train on, relative to root.
        val: Annotation file to evaluate on, relative to root.
        images: Folder of the images, relative to root.
        val_folder: Evaluate on the images of this folder only; of LVIS v1's val file, val2017 is
            the set known as minival.
        val_groups: Json file, relative to root, of named groups of categories beside those of the
            evaluation file: {"novel": [ids or names]}. The AP of each is reported as AP_novel.
        rare_split: base_only leaves rare names and their boxes out of training; all keeps them.
        keep_empty: Whether to train on images without boxes, as pure negatives.
        faults: What to do where the training file is at fault: refuse it, or drop the images and
            boxes at fault and log how many.
        batch_size: Training images a process and step.
        val_batch_size: Evaluation images a process and step.
        num_workers: Loading processes beside each training process; 0 loads in it.
        repeat_threshold: Repeat-factor sampling: images with names that fewer than this share of
            all images show are drawn more often, LVIS takes 0.001; 0 draws each once an epoch.
        verified: Whether only names that an image verifies (by boxes or `neg_category_ids`) count
            as absent from it, as in the federated annotations of LVIS.
        embeddings: File of stored teacher embeddings (`gridclip data embed`), so that no step pays
            for the teacher; for augmentations that it would not notice, but for mirroring.
        regions: File of embedded proposals (`gridclip clip embed-proposals`), for ViLD. Of a crop
            those that are seen whole take part; other colours are refused.
        regions_named: Warn where the teacher of these regions names a smaller share of annotated
            boxes right (`gridclip clip probe`): most of what it teaches is wrong.
        masks: Read the objects' masks too (polygons, or codes as COCO writes them), for a detector
            that finds masks.
        image_level: Images without boxes to train on too, in batches of their own.
        image_level_ratio: Image-level batches for each detection batch; 0 leaves them out.
        image_level_batch_size: Image-level images a process and step.
        resize: Size of training images; one of the shortest sides is drawn for each.
        augmentation: Random changes of training images.
        val_resize: Size of evaluation images.
        pad_to: Height and width of a batch are multiples of this, in pixels.
        seed: Of order and augmentation.
    """

    def __init__(
        self,
        root: str,
        train: str = "train.json",
        val: str = "val.json",
        images: str = "images",
        val_folder: str | None = None,
        val_groups: str | None = None,
        rare_split: RareSplit = "base_only",
        keep_empty: bool = True,
        faults: Faults = "refuse",
        batch_size: int = 2,
        val_batch_size: int = 2,
        num_workers: int = 2,
        repeat_threshold: float = 0.0,
        verified: bool = False,
        embeddings: str | None = None,
        regions: str | None = None,
        regions_named: float = 0.3,
        masks: bool = False,
        image_level: ImageLevelSource | None = None,
        image_level_ratio: float = 1.0,
        image_level_batch_size: int = 2,
        resize: Resize = TRAIN_RESIZE,
        augmentation: Augmentation = AUGMENTATION,
        val_resize: Resize = VAL_RESIZE,
        pad_to: int = 32,
        seed: int = 0,
    ) -> None:
        require_at_least(1, batch_size=batch_size, image_level_batch_size=image_level_batch_size)
        require_at_least(0, seed=seed)
        require_at_least(0, image_level_ratio=image_level_ratio, repeat_threshold=repeat_threshold)
        folder = Path(root)
        evaluated = Evaluated(
            DataPlace(folder, val, images, "val"),
            val_folder,
            val_batch_size,
            val_resize,
            groups=folder / val_groups if val_groups else None,
            masks=masks,
        )
        super().__init__(evaluated, num_workers, pad_to)
        self.train_place = DataPlace(folder, train, images, "train")
        self.rare_split: RareSplit = rare_split
        self.masks = masks
        self.keep_empty, self.faults = keep_empty, faults
        self.batch_size, self.seed = batch_size, seed
        self.repeat_threshold, self.verified = repeat_threshold, verified
        self.embeddings = None if embeddings is None else _stored(embeddings, augmentation)
        require_fraction(regions_named=regions_named)
        self.regions_file, self.regions_named = regions, regions_named
        if regions is not None:
            changed = {"colour", "mosaic"}.intersection(augmentation.uncacheable())
            if changed:
                raise _uncacheable(sorted(changed), "regions")
        self.image_level = image_level if image_level_ratio else None
        self.image_level_ratio = image_level_ratio
        self.image_level_batch_size = image_level_batch_size
        self.resize, self.augmentation = resize, augmentation

    def setup(self, stage: str | None = None) -> None:
        """Reads and checks what the stage needs.

        Raises:
            InputError: if a file or an image is absent or wrong.
        """
        if stage in (None, "fit"):
            check_images(self.train_set.annotations, self.train_set.folder)
            self._check_stored()
            if self.image_level is not None:
                self.image_level.check()
        images = self.val_set.folder
        check_images(self.val_set.annotations, images, headers=stage != "predict")

    @cached_property
    def train_set(self) -> DetectionDataset:
        """The training images, augmented, with the boxes of the training vocabulary."""
        annotations, images = self.train_place.read(self.faults, masks=self.masks)
        labels = label_map(annotations, self.rare_split)
        dataset = DetectionDataset(
            annotations,
            images,
            labels,
            TrainingTransform(self.resize, self.augmentation),
            seed=self.seed,
            keep_empty=self.keep_empty,
            mosaic=self.augmentation.joined,
            extras=ImageExtras(
                verified=verified_names(annotations, labels) if self.verified else None,
                embeddings=self.embeddings,
                regions=self.regions,
            ),
        )
        dataset.require_boxes(self.rare_split, "data.rare_split")
        return dataset

    @cached_property
    def regions(self) -> StoredRegions | None:
        """Embedded proposals, opened."""
        return None if self.regions_file is None else StoredRegions(self.regions_file)

    @property
    def stored_embeddings(self) -> Mapping[str, StoredByPath]:
        """Of whole images, and of proposals, where they are given."""
        both = {"embeddings": self.embeddings, "regions": self.regions}
        return {field: stored for field, stored in both.items() if stored is not None}

    @property
    def mixed(self) -> bool:
        """Whether images without boxes are mixed in."""
        return self.image_level is not None

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns batches drawn by (seed, epoch, step), in every process its share.

        A resumed training goes on with the batch after the last one it trained on, because the
        trainer's own counters are asked, whenever an epoch begins.
        """
        trainer = self.trainer
        if getattr(trainer, "overfit_batches", 0):  # the same images, in order
            return self.in_order(self.train_set, self.batch_size)
        sampler = MixedSampler(
            self._pools(),
            seed=self.seed,
            share=RankShard(trainer.world_size, trainer.global_rank) if trainer else ALONE,
            position=(lambda: position(trainer)) if trainer else None,
        )
        batches = Batches(self.train_set, self.image_level, self.pad_to)
        return TrainingLoader(batches, sampler, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Returns what must be the same when a training is resumed."""
        return {
            "processes": self.trainer.world_size if self.trainer else 1,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "repeat_threshold": self.repeat_threshold,
            "image_level_ratio": self.image_level_ratio if self.mixed else 0.0,
            "image_level_batch_size": self.image_level_batch_size if self.mixed else 0,
            "training images": fingerprint(self.train_set, self.image_level),
        }

    def _check_stored(self) -> None:
        paths = self.train_set.annotations.paths[self.train_set.images].tolist()
        for stored in self.stored_embeddings.values():
            # Asking for the length of every file takes minutes on a network disk.
            stored.check(paths, self.train_set.folder if len(paths) <= HEADERS_READ else None)
        if self.regions is not None:
            self._warn_of(self.regions)

    def _warn_of(self, regions: StoredRegions) -> None:
        """Warns of regions whose teacher names little, so that they teach little."""
        if regions.named is not None and regions.named < self.regions_named:
            logger.warning(
                "%s: the teacher, shown regions in the view %r, names %.1f %% of annotated boxes "
                "right, below data.init_args.regions_named (%g %%); compare views with: "
                "gridclip clip probe %s --images %s",
                *(regions.file, regions.view, 100 * regions.named, 100 * self.regions_named),
                *(self.train_set.annotations.file, self.train_set.folder),
            )

    def _pools(self) -> dict[Kind, SamplingPool]:
        pools: dict[Kind, SamplingPool] = {
            "detection": self.train_set.pool(self.batch_size, self.repeat_threshold)
        }
        if self.image_level is not None:
            sizes, ratio = self.image_level.sizes, self.image_level_ratio
            pools["image_level"] = SamplingPool(sizes, self.image_level_batch_size, ratio=ratio)
        return pools


def _stored(file: str, augmentation: Augmentation) -> StoredEmbeddings:
    """Opens stored embeddings, if they hold for the images of training.

    Raises:
        InputError: if an augmentation changes what the teacher would see.
    """
    changed = augmentation.uncacheable()
    if changed:
        raise _uncacheable(changed, "embeddings")
    return StoredEmbeddings(file)


def _uncacheable(changed: list[str], field: str) -> InputError:
    return InputError(
        f"stored embeddings are of whole images in their own colours, but "
        f"{' and '.join(f'augmentation.{name}' for name in changed)} would change them",
        field=field,
        fix=f"turn that off, or leave {field} out, and the teacher sees each view itself",
    )
