"""Hybrid training (DetCLIPv2, RegionCLIP): kinds of data in turn, one kind a step."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from gridclip.data.datamodules.base import Evaluated, EvaluatedData
from gridclip.data.datamodules.loaders import TrainingLoader, position, start_worker
from gridclip.data.datasets.boxed_concepts import (
    DetectionConcepts,
    DetectionSource,
    GroundingConcepts,
    GroundingSource,
)
from gridclip.data.datasets.captions import PairConcepts, PairSource
from gridclip.data.datasets.concepts import ConceptSource, Joined, Stream, collate_concepts
from gridclip.data.datasets.detection import check_images
from gridclip.data.forms.place import DataPlace
from gridclip.data.sampling import ALONE, Kind, MixedSampler, RankShard, SampleIndex
from gridclip.data.transforms.augment import VAL_RESIZE, Resize
from gridclip.io.errors import InputError, require_at_least
from gridclip.structures import ConceptBatch, Vocabulary

Settings = TypeVar("Settings", bound=Stream)


class HybridData(EvaluatedData):
    """Detection, grounding and image-text data for training; boxes for evaluation.

    Every batch is a `ConceptBatch` of one kind, the same kind in all processes at each step. An
    epoch is one pass over the first kind that is given (detection, grounding, pairs, in this
    order); the others go through their own images at their own pace.

    Args:
        detection: Images whose boxes have categories; of each kind one source or several.
        grounding: Images whose boxes have phrases of a caption.
        pairs: Images with captions.
        root: Folder of the data set to evaluate on; without it nothing is evaluated.
        val: Annotation file to evaluate on, relative to root.
        images: Folder of its images, relative to root.
        val_folder: Evaluate on the images of this folder only.
        val_groups: Json file, relative to root, of named groups of categories beside those of the
            evaluation file: {"novel": [ids or names]}. The AP of each is reported as AP_novel.
        val_batch_size: Evaluation images a process and step.
        val_resize: Size of evaluation images.
        num_workers: Loading processes beside each training process; 0 loads in it.
        pad_to: Height and width of a batch are multiples of this, in pixels.
        seed: Of order, augmentation, captions and negatives.
    """

    def __init__(
        self,
        detection: DetectionSource | list[DetectionSource] | None = None,
        grounding: GroundingSource | list[GroundingSource] | None = None,
        pairs: PairSource | list[PairSource] | None = None,
        root: str | None = None,
        val: str = "val.json",
        images: str = "images",
        val_folder: str | None = None,
        val_groups: str | None = None,
        val_batch_size: int = 2,
        val_resize: Resize = VAL_RESIZE,
        num_workers: int = 2,
        pad_to: int = 32,
        seed: int = 0,
    ) -> None:
        require_at_least(0, seed=seed)
        evaluated = None
        if root is not None:
            place = DataPlace(Path(root), val, images, "val")
            groups = Path(root) / val_groups if val_groups else None
            evaluated = Evaluated(place, val_folder, val_batch_size, val_resize, groups)
        super().__init__(evaluated, num_workers, pad_to)
        self.seed = seed
        self.detection = _listed("detection", detection)
        self.grounding = _listed("grounding", grounding)
        self.pairs = _listed("pairs", pairs)
        if not (self.detection or self.grounding or self.pairs):
            raise InputError(
                "there is nothing to train on",
                field="data.init_args",
                fix="give detection, grounding or pairs, with a ratio above 0",
            )

    @property
    def mixed(self) -> bool:
        """True: no kind of data trains all weights of a detector."""
        return True

    @cached_property
    def sources(self) -> dict[Kind, ConceptSource]:
        """The training images of each kind, opened."""
        seed, opened = self.seed, dict[Kind, Sequence[ConceptSource]]()
        opened["detection"] = [DetectionConcepts(each, seed) for each in self.detection]
        names = [name for source in opened["detection"] for name in source.names()]
        opened["grounding"] = [GroundingConcepts(each, seed, names) for each in self.grounding]
        opened["pairs"] = [PairConcepts(each, seed) for each in self.pairs]
        return {
            kind: found[0] if len(found) == 1 else Joined(found)
            for kind, found in opened.items()
            if found
        }

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """Every concept that has a box somewhere in training; None if none has."""
        names = [name for source in self.sources.values() for name in source.names()]
        return Vocabulary(dict.fromkeys(names)) if names else None

    def setup(self, stage: str | None = None) -> None:
        """Reads and checks what the stage needs.

        Raises:
            InputError: if a file or an image is absent or wrong.
        """
        if stage in (None, "fit"):
            for source in self.sources.values():
                source.check()
        if self.evaluated is not None:
            images = self.val_set.folder
            check_images(self.val_set.annotations, images, headers=stage != "predict")

    def train_dataloader(self) -> DataLoader[Any]:
        """Loads batches drawn by (seed, epoch, step), in every process its share."""
        trainer = self.trainer
        batches = ConceptBatches(self.sources, self.pad_to)
        overfits = bool(getattr(trainer, "overfit_batches", 0))
        sampler = MixedSampler(
            {kind: source.pool for kind, source in self.sources.items()},
            seed=self.seed,
            share=RankShard(trainer.world_size, trainer.global_rank) if trainer else ALONE,
            position=(lambda: position(trainer)) if trainer and not overfits else None,
        )
        if overfits:
            return DataLoader(
                InOrder(batches, [*sampler]), batch_size=None, worker_init_fn=start_worker
            )
        return TrainingLoader(batches, sampler, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Returns what must be the same when a training is resumed."""
        return {
            "kinds": " ".join(self.sources),
            "processes": self.trainer.world_size if self.trainer else 1,
            "seed": self.seed,
            **{
                f"{kind}.{name}": value
                for kind, source in self.sources.items()
                for name, value in source.state().items()
            },
        }


def _listed(kind: str, given: Settings | list[Settings] | None) -> list[Settings]:
    """Returns one source or several as a list, without those of ratio 0.

    Raises:
        InputError: if sources of one kind have different batch sizes or ratios.
    """
    listed = given if isinstance(given, list) else [given] if given is not None else []
    for field in ("batch_size", "ratio"):
        values = [getattr(each, field) for each in listed]
        if len(set(values)) > 1:
            raise InputError(
                f"the sources have {', '.join(map(str, values))}, but share their batches",
                field=f"data.{kind}.{field}",
                fix="give all of them the same",
            )
    return [each for each in listed if each.ratio]


class ConceptBatches(Dataset[ConceptBatch]):
    """Reads whole batches, all of one kind each.

    Args:
        sources: Images by their kind.
        multiple: Height and width of a batch are multiples of this, in pixels.
    """

    def __init__(self, sources: Mapping[Kind, ConceptSource], multiple: int = 32) -> None:
        self.sources, self.multiple = dict(sources), multiple

    def __getitem__(self, draws: list[SampleIndex]) -> ConceptBatch:
        """Reads, transforms and pads the images of one batch."""
        kind = draws[0].source
        samples = [self.sources[kind][draw] for draw in draws]
        return collate_concepts(kind, samples, self.multiple)


class InOrder(Dataset[ConceptBatch]):
    """The same batches in the same order in each epoch: what `overfit_batches` asks for."""

    def __init__(self, batches: ConceptBatches, draws: list[list[SampleIndex]]) -> None:
        self.batches, self.draws = batches, draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> ConceptBatch:
        """Reads one batch."""
        return self.batches[self.draws[index]]
