"""Images with boxes, one at a time."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from gridclip.data.collate import Sample
from gridclip.data.lvis import Annotations
from gridclip.data.pictures import read_picture, require_size
from gridclip.data.sampling import Draw
from gridclip.data.transforms import Example, Transform, to_tensor
from gridclip.data.vocabulary import LabelMap
from gridclip.structures import Record, Targets, Vocabulary


class DetectionDataset(Dataset[Sample]):
    """The images of an annotation file, with the boxes that a vocabulary names.

    Augmentation is a function of (seed, epoch, image) alone, so it is the same with any number of
    workers, and new in each epoch.

    Args:
        annotations: The file, read.
        folder: What its paths are relative to.
        labels: The vocabulary; boxes of names outside it are left out.
        transform: From the stored picture to what the network sees.
        seed: Of the augmentation.
        keep_empty: Whether images without (remaining) boxes count, as pure negatives.
    """

    def __init__(
        self,
        annotations: Annotations,
        folder: Path,
        labels: LabelMap,
        transform: Transform,
        *,
        seed: int = 0,
        keep_empty: bool = True,
    ) -> None:
        self.annotations, self.folder = annotations, folder
        self.transform, self.seed = transform, seed
        rows = labels.rows[annotations.labels.values]
        self.boxes = annotations.boxes.keep(rows >= 0)
        self.labels = annotations.labels._replace(values=rows).keep(rows >= 0)
        counts = np.diff(self.labels.offsets)
        self.images = np.flatnonzero(counts >= (0 if keep_empty else 1))
        self.vocabulary: Vocabulary = labels.vocabulary

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw | int) -> Sample:
        """Read and transform one image.

        Args:
            draw: Which image and in which epoch; a bare row is of epoch 0.

        Raises:
            InputError: if the picture cannot be read or has another size than listed.
        """
        row, epoch = draw if isinstance(draw, Draw) else (draw, 0)
        image = int(self.images[row])
        path = str(self.annotations.paths[image])
        file = self.folder / path
        height, width = self.annotations.sizes[image].tolist()
        picture = read_picture(file)
        require_size(file, picture.shape[:2], (height, width), self.annotations.file)
        picture, boxes, labels = self.transform(
            Example(picture, self.boxes.of(image), self.labels.of(image)),
            np.random.default_rng((self.seed, epoch, image)),
        )
        return Sample(
            picture=to_tensor(picture),
            targets=Targets(torch.tensor(boxes), torch.tensor(labels)),
            record=Record(int(self.annotations.image_ids[image]), path, height, width),
        )
