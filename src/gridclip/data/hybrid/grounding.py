"""Phrases with boxes, and concepts that the caption does not speak of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from gridclip.data.dataset import DetectionDataset
from gridclip.data.evaluated import require_at_least
from gridclip.data.hybrid.entities import Grounding, read_grounding
from gridclip.data.hybrid.phrases import word_set
from gridclip.data.hybrid.source import ConceptSample, ConceptSource, Stream, chances
from gridclip.data.pictures import check_pictures
from gridclip.data.resume import digest, fingerprint
from gridclip.data.sampling import Draw, Pool
from gridclip.data.transforms import TrainingTransform
from gridclip.data.vocabulary import LabelMap
from gridclip.names import read_names
from gridclip.structures import Targets, Vocabulary

_DRAWN = 4  # concepts drawn for each negative that is wanted, since the caption may speak of some


@dataclass(frozen=True, kw_only=True)
class GroundingSource(Stream):
    """Images with a caption, of which some phrases have boxes.

    Args:
        file: Grounding file in MDETR's form.
        images: Folder of the pictures.
        concepts: Concepts an image is trained with: its own phrases, and others drawn by chance
            that its caption does not speak of, up to this number.
        dictionary: File of names to draw the others from, such as `gridclip data concepts` writes.
            Without it: the phrases of the file, and the names of the detection source.
    """

    file: str
    images: str
    concepts: int = 100
    dictionary: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.augmentation.require_single("phrases are")
        require_at_least(1, concepts=self.concepts)


class GroundingConcepts(ConceptSource):
    """The images of a grounding source with their phrases, and concepts that they do not show.

    Args:
        source: What and how.
        seed: Of augmentation and negatives.
        others: Names that are added to the phrases where no dictionary is given.
    """

    def __init__(self, source: GroundingSource, seed: int = 0, others: Sequence[str] = ()) -> None:
        self.source, self.seed, self.others = source, seed, others

    @cached_property
    def grounding(self) -> Grounding:
        """The file, read."""
        return read_grounding(Path(self.source.file))

    @cached_property
    def dataset(self) -> DetectionDataset:
        """Its images that have a box; the labels are rows of all phrases."""
        annotations = self.grounding.annotations
        phrases = Vocabulary(category.name for category in annotations.categories)
        return DetectionDataset(
            annotations,
            Path(self.source.images),
            LabelMap(phrases, np.arange(len(phrases))),
            TrainingTransform(self.source.resize, self.source.augmentation),
            seed=self.seed,
            keep_empty=False,
        )

    @cached_property
    def dictionary(self) -> Sequence[str]:
        """What negatives are drawn from, each once."""
        if self.source.dictionary is not None:
            return read_names(Path(self.source.dictionary)).names
        return tuple(dict.fromkeys([*self.dataset.vocabulary.names, *self.others]))

    @cached_property
    def pool(self) -> Pool:
        """What a sampler draws from."""
        return self.dataset.pool(self.source.batch_size, ratio=self.source.ratio)

    def check(self) -> None:
        """Refuse what cannot be read."""
        check_pictures(self.dataset.annotations, self.dataset.folder)
        _ = self.dictionary

    def names(self) -> list[str]:
        """The phrases that have boxes."""
        return [*self.dataset.vocabulary.names]

    def state(self) -> dict[str, str | int | float | bool | None]:
        """What decides which images and concepts a step sees."""
        said = digest(self.dictionary, [self.grounding.captions.characters])
        return {
            **{name: getattr(self.source, name) for name in ("batch_size", "ratio", "concepts")},
            "images": fingerprint(self.dataset),
            "captions and dictionary": said,
        }

    def __getitem__(self, draw: Draw | int) -> ConceptSample:
        """Read one image, and draw concepts of which its caption does not speak."""
        draw = draw if isinstance(draw, Draw) else Draw(row=draw, epoch=0)
        seen, image = self.dataset[draw], int(self.dataset.images[draw.row])
        caption = self.grounding.captions.of(image)
        positive, labels = torch.unique(seen.targets.labels, return_inverse=True)
        phrases = tuple(self.dataset.vocabulary.names[row] for row in positive.tolist())
        _, chance = chances(self.seed, draw, image)
        return ConceptSample(
            picture=seen.picture,
            names=phrases,
            targets=Targets(seen.targets.boxes, labels),
            negatives=self._negatives(phrases, caption, chance),
            record=seen.record,
            caption=caption,
        )

    def _negatives(
        self, phrases: tuple[str, ...], caption: str, chance: np.random.Generator
    ) -> tuple[str, ...]:
        wanted = max(0, self.source.concepts - len(phrases))
        count = min(_DRAWN * wanted, len(self.dictionary))
        drawn = chance.choice(len(self.dictionary), count, replace=False).tolist()
        said = word_set(caption)
        found = (self.dictionary[row] for row in drawn)
        return tuple(name for name in found if not word_set(name) <= said)[:wanted]
