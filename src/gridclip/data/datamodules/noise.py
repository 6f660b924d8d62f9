"""Random images and boxes of any size and vocabulary: for timing, and for trying shapes."""

from pathlib import Path

import lightning
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gridclip.data.category_names import read_names
from gridclip.data.datamodules.loaders import Collate
from gridclip.data.datasets.concepts import ConceptSample, collate_concepts
from gridclip.data.datasets.detection import Sample
from gridclip.io.errors import require_at_least
from gridclip.ops.masks import MASK_SIDE
from gridclip.structures import ConceptBatch, DetectionBatch, Record, Targets, Vocabulary


class SyntheticData(lightning.LightningDataModule):
    """Batches like those of DetectionData, made of noise; there is nothing to evaluate on.

    Args:
        names: How many names to make up, or a file of names as `read_names` takes them.
        height: Of every image, in pixels.
        width: Of every image, in pixels.
        boxes: Boxes on every image.
        length: Images in an epoch.
        batch_size: Images a process and step.
        num_workers: Loading processes beside each training process.
        seed: Of images and boxes.
        masks: Whether every box has a mask, an ellipse.
    """

    def __init__(
        self,
        names: int | str = 1203,
        height: int = 800,
        width: int = 1333,
        boxes: int = 12,
        length: int = 16,
        batch_size: int = 2,
        num_workers: int = 0,
        seed: int = 0,
        masks: bool = False,
    ) -> None:
        super().__init__()
        require_at_least(1, height=height, width=width, length=length, batch_size=batch_size)
        made_up = (f"thing {number}" for number in range(names)) if isinstance(names, int) else None
        self.vocabulary = Vocabulary(made_up) if made_up else read_names(Path(str(names)))
        self.dataset = NoiseDataset(
            len(self.vocabulary), height, width, boxes=boxes, length=length, seed=seed, masks=masks
        )
        self.batch_size, self.num_workers = batch_size, num_workers

    def train_dataloader(self) -> DataLoader[Sample]:
        """Loads the same images every epoch, in order."""
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
        )

    def collate(self, samples: list[Sample]) -> DetectionBatch:
        """Makes a batch."""
        return Collate(self.vocabulary)(samples)


class SyntheticPairs(SyntheticData):
    """Batches like those of HybridData's pairs: noise, each image with a caption of its own."""

    def collate(self, samples: list[Sample]) -> ConceptBatch:  # type: ignore[override]
        """Turns boxes into concepts: of each image which categories it shows."""
        names = self.vocabulary.names
        return collate_concepts(
            "pairs",
            [
                ConceptSample(
                    image=sample.image,
                    names=tuple({names[label]: None for label in sample.targets.labels.tolist()}),
                    targets=Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
                    negatives=(),
                    record=sample.record,
                    caption=f"{sample.record.path} with {names[int(sample.targets.labels[0])]}",
                )
                for sample in samples
            ],
        )


class NoiseDataset(Dataset[Sample]):
    """Images of noise with random boxes and labels, each a function of the seed and its row.

    Arguments are those of `SyntheticData`; `names` is the size of the vocabulary.
    """

    def __init__(
        self,
        names: int,
        height: int,
        width: int,
        *,
        boxes: int,
        length: int,
        seed: int,
        masks: bool = False,
    ) -> None:
        self.names, self.height, self.width = names, height, width
        self.boxes, self.length, self.seed, self.masks = boxes, length, seed, masks

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> Sample:
        """Draws one image."""
        generator = np.random.default_rng((self.seed, row))
        image = generator.integers(0, 256, (3, self.height, self.width), dtype=np.uint8)
        labels = generator.integers(0, self.names, self.boxes)
        return Sample(
            image=torch.from_numpy(image),
            targets=Targets(
                self._draw_boxes(generator),
                torch.from_numpy(labels),
                ellipses(self.boxes) if self.masks else None,
            ),
            record=Record(row + 1, f"noise {row}", self.height, self.width),
        )

    def _draw_boxes(self, generator: np.random.Generator) -> Float32[Tensor, "T 4"]:
        """Draws boxes of all sizes: sides spread evenly in their logarithm, from a 50th up."""
        size = np.array([self.width, self.height])
        sides = size * np.exp(generator.uniform(np.log(0.02), 0.0, (self.boxes, 2)))
        corners = generator.uniform(0, size - sides)
        return torch.from_numpy(np.concatenate([corners, corners + sides], 1).astype(np.float32))


def ellipses(count: int) -> UInt8[Tensor, "T S S"]:
    """Returns masks that touch the sides of their boxes."""
    across = (torch.arange(MASK_SIDE) + 0.5) / MASK_SIDE * 2 - 1
    inside = across[:, None] ** 2 + across[None] ** 2 < 1
    return inside.to(torch.uint8).repeat(count, 1, 1)
