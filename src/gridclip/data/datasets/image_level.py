"""Images without boxes for training, with pseudo-labels and embeddings of a frozen CLIP."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.category_names import plain_name, read_names
from gridclip.data.images.decode import decode_image
from gridclip.data.images.image_list import ImageList
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.pseudo_labels import Keep, PseudoLabels
from gridclip.data.sampling import SampleIndex
from gridclip.data.transforms.augment import (
    AUGMENTATION,
    TRAIN_RESIZE,
    Augmentation,
    Resize,
    TrainingTransform,
)
from gridclip.data.transforms.example import Example, to_tensor
from gridclip.io.errors import InputError
from gridclip.structures import Record, Vocabulary


class ImageSample(NamedTuple):
    """One image without boxes, ready for the network."""

    image: UInt8[Tensor, "3 h w"]
    scores: Float[Tensor, "K"]  # pseudo-label of each name in [0, 1]; 0 where it was not kept
    record: Record
    teacher: Float[Tensor, "E"] | None = None  # the stored embedding of this very view


class ImageLevelSource(Dataset[ImageSample], ABC):
    """Images read by index, so that any order can be had and resumed.

    Attributes:
        vocabulary: What the scores are of.
        sizes: Height and width of each image, in pixels of the original image.
    """

    vocabulary: Vocabulary
    sizes: Int64[np.ndarray, "I 2"]

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def check(self) -> None:
        """Refuses, before any training, what cannot be read.

        Raises:
            InputError: naming file, field and fix.
        """

    @abstractmethod
    def __getitem__(self, draw: SampleIndex | int) -> ImageSample:
        """Reads and transforms one image, a function of seed and draw alone."""


class PseudoLabelled(ImageLevelSource):
    """Images with stored pseudo-labels and stored embeddings.

    Making one is cheap: files are opened when they are first asked for, by `check` at the latest.
    A view carries the teacher's embedding, of the image or of its mirror image, unless the
    augmentation makes a teacher see another image (`Augmentation.uncacheable`); then none does.

    Args:
        source: Images, in any form that `gridclip data pack` takes; best what it writes.
        labels: What `gridclip data pseudo-label` wrote of these images.
        images: What the paths in a captions or annotation file are relative to.
        names: Names to learn from, such as the rare ones: a file of names. Their scores are those
            among all names of the labels, and threshold and top_k are applied before. All by
            default.
        threshold: Names of a lower score are dropped; by default as the labels say.
        top_k: At most so many names an image; by default as the labels say.
        temperature: Of the softmax that makes scores; by default as the labels say.
        trust_classes: Whether a class that the source gives to an image (its subfolder, say) has
            score 1 if it is a name of the vocabulary, whatever the teacher says.
        keep_unlabelled: Whether images without a name left take part, for alignment alone.
        resize: Size of the images; one of the shortest sides is drawn for each.
        augmentation: Random changes of an image.
        seed: Of the augmentation.
    """

    def __init__(  # noqa: PLR0913 - one argument a setting
        self,
        source: str,
        labels: str,
        images: str | None = None,
        names: str | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        trust_classes: bool = False,
        keep_unlabelled: bool = True,
        resize: Resize = TRAIN_RESIZE,
        augmentation: Augmentation = AUGMENTATION,
        seed: int = 0,
    ) -> None:
        self.source, self.labels_file = Path(source), Path(labels)
        self.folder = Path(images) if images else None
        self.names_file = Path(names) if names else None
        asked = {"threshold": threshold, "top_k": top_k, "temperature": temperature}
        self._asked = {name: value for name, value in asked.items() if value is not None}
        Keep(**self._asked)  # type: ignore[arg-type] # refuses at once what makes no sense
        self.trust_classes, self.keep_unlabelled = trust_classes, keep_unlabelled
        self.seed = seed
        augmentation.require_single("pseudo-labels are")
        self.resize, self.augmentation = resize, augmentation
        self.has_embeddings = not augmentation.uncacheable()

    @cached_property
    def labels(self) -> PseudoLabels:
        """The file of pseudo-labels, opened."""
        return PseudoLabels(self.labels_file)

    @cached_property
    def listed(self) -> ImageList:
        """The images, opened."""
        return open_images(self.source, self.folder)

    @cached_property
    def transform(self) -> TrainingTransform:
        """From the stored image to what the network sees."""
        return TrainingTransform(self.resize, self.augmentation)

    @cached_property
    def keep(self) -> Keep:
        """The settings that were given, and for the rest those of the labels."""
        recipe = self.labels.recipe.keep
        stated = {name: getattr(recipe, name) for name in ("threshold", "top_k", "temperature")}
        return Keep(**{**stated, **self._asked})

    @cached_property
    def vocabulary(self) -> Vocabulary:  # type: ignore[override]
        """The names that scores are of."""
        return read_names(self.names_file) if self.names_file else self.labels.recipe.vocabulary

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "I 2"]:  # type: ignore[override]
        """Height and width of each image that takes part."""
        return self.labels.sizes[self.rows]

    @cached_property
    def rows(self) -> Int64[np.ndarray, "I"]:
        """Row in the source of each image that takes part."""
        everything = np.arange(len(self.labels))
        if self.keep_unlabelled:
            return everything
        return everything[[bool(self._scores(row).any()) for row in everything.tolist()]]

    def check(self) -> None:
        """Refuses, before any training, what cannot be read.

        Raises:
            InputError: if a file is missing or cut short, the labels are of other images or lack
                some of the names, or more names are asked for than are stored.
        """
        if self.labels.recipe.origin["source"] != self.listed.fingerprint():
            raise InputError(
                f"its labels are of other images than {self.source} holds",
                fix="give the source that was labelled (a folder and its packed shards are the "
                "same), or label this one: gridclip data pseudo-label",
                file=self.labels_file,
                field="labels",
            )
        self.labels.check(self.keep)
        unknown = [name for name in self.vocabulary.names if name not in self._places]
        if unknown:
            raise InputError(
                f"{len(unknown)} names are not among those labelled: {', '.join(unknown[:3])}",
                fix="take them out, or label again with a vocabulary that has them",
                file=self.names_file,
                field="names",
            )
        if not len(self.rows):
            raise InputError(
                "no image has a pseudo-label left",
                fix="lower threshold, raise top_k, or set keep_unlabelled to true",
                file=self.labels_file,
                field="threshold",
            )

    def __getitem__(self, draw: SampleIndex | int) -> ImageSample:
        """Reads and transforms one image, a function of seed and draw alone.

        Raises:
            InputError: if the image cannot be read.
        """
        draw = draw if isinstance(draw, SampleIndex) else SampleIndex(draw)
        row = int(self.rows[draw.row])
        stored = decode_image(self.listed.read(row), self.listed.place_of(row))
        view = self.transform(
            Example(stored, np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)),
            np.random.default_rng((self.seed, draw.epoch, row, draw.turn)),
        )
        height, width, _ = stored.shape
        return ImageSample(
            image=to_tensor(view.image),
            scores=torch.from_numpy(self._scores(row)),
            record=Record(row, self.listed.image(row).path, height, width),
            teacher=self._embedding(row, view.mirrored) if self.has_embeddings else None,
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        """Row of each name in the labels."""
        return {name: row for row, name in enumerate(self.labels.recipe.vocabulary.names)}

    @cached_property
    def _columns(self) -> Int64[np.ndarray, "K"]:
        return np.array([self._places[name] for name in self.vocabulary.names])

    def _embedding(self, row: int, mirrored: bool) -> Float[Tensor, "E"]:
        return torch.from_numpy(self.labels.embedding(row, mirrored))

    def _scores(self, row: int) -> Float32[np.ndarray, "K"]:
        scores = self.labels.scores(row, self.keep)[self._columns]
        if self.trust_classes:
            classes = {plain_name(name) for name in self.listed.image(row).names}
            scores[[plain_name(name) in classes for name in self.vocabulary.names]] = 1
        return scores
