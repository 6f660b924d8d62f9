"""Captioned images: one caption a turn, its noun phrases, and no boxes."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gridclip.data.datasets.concepts import ConceptSample, ConceptSource, Stream, generators
from gridclip.data.datasets.noun_phrases import Phrases, check_parser
from gridclip.data.images.decode import decode_image
from gridclip.data.images.image_list import ImageList
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.stored import StoredProposals
from gridclip.data.sampling import SampleIndex, SamplingPool
from gridclip.data.transforms.augment import Resize, TrainingTransform
from gridclip.data.transforms.example import Example, to_tensor
from gridclip.io.errors import InputError, require_at_least
from gridclip.structures import Record, Targets

_CHECKED = 100_000  # images whose captions are looked at before training


_RESIZE = Resize(shortest=(320,), longest=480)  # the paper's are squares of 320


@dataclass(frozen=True, kw_only=True)
class PairSource(Stream):
    """Images with captions. A class that its source gives to an image counts as its caption.

    Args:
        source: A captions file, a folder with one or with a subfolder per class, or tar shards.
        images: What the paths in a captions file are relative to.
        parser: Of noun phrases: textblob, or spacy:MODEL for a model that you have installed.
        whole_caption: Whether the whole caption is a concept too. One without noun phrases is in
            any case.
        proposals: File of proposals for these images (as `gridclip propose` writes them).
        limit: At most so many proposals an image, best first.
    """

    source: str
    images: str | None = None
    parser: str = "textblob"
    whole_caption: bool = True
    proposals: str | None = None
    limit: int = 100
    resize: Resize = _RESIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.augmentation.require_single("a caption is")
        check_parser(self.parser)
        require_at_least(1, limit=self.limit)


class PairConcepts(ConceptSource):
    """Captioned images with the noun phrases of one of their captions.

    Args:
        source: What and how.
        seed: Of augmentation, and of which caption is drawn.
    """

    def __init__(self, source: PairSource, seed: int = 0) -> None:
        self.source, self.seed = source, seed

    @cached_property
    def listed(self) -> ImageList:
        """The images, opened."""
        images = self.source.images
        return open_images(Path(self.source.source), None if images is None else Path(images))

    @cached_property
    def _fingerprint(self) -> str:
        return f"{len(self.listed)} ({self.listed.fingerprint()})"

    @cached_property
    def phrases(self) -> Phrases:
        """The parser, opened."""
        return Phrases(self.source.parser)

    @cached_property
    def proposals(self) -> StoredProposals | None:
        """The proposals, opened."""
        file = self.source.proposals
        return None if file is None else StoredProposals(file)

    @cached_property
    def transform(self) -> TrainingTransform:
        """From the stored image to what the network sees."""
        return TrainingTransform(self.source.resize, self.source.augmentation)

    @cached_property
    def pool(self) -> SamplingPool:
        """What a sampler draws from."""
        return SamplingPool(self.listed.sizes, self.source.batch_size, ratio=self.source.ratio)

    def captions(self, row: int) -> tuple[str, ...]:
        """Returns the captions of an image, blanks apart as the source has them."""
        image = self.listed.image(row)
        return tuple(" ".join(caption.split()) for caption in image.captions or image.names)

    def check(self) -> None:
        """Refuses images without captions or without proposals, and a parser that is not there.

        The first 100 000 images are looked at; of more, the others when they are read.
        """
        rows = range(min(len(self.listed), _CHECKED))
        missing = [self.listed.image(row).path for row in rows if not any(self.captions(row))]
        if missing:
            raise self._without_caption(missing)
        _ = self.phrases
        if self.proposals is not None:
            bare = self.proposals.missing(self.listed.image(row).path for row in rows)
            if bare:
                fix = f"propose for all of them, and write them to {self.source.proposals}"
                raise self._lacking(bare, "have no proposals", "proposals", fix)

    def names(self) -> list[str]:
        """Returns nothing: there are no boxes."""
        return []

    def state(self) -> dict[str, str | int | float | bool | None]:
        """Returns what decides which images and captions a step sees."""
        kept = ("batch_size", "ratio", "parser", "whole_caption", "limit")
        return {
            **{name: getattr(self.source, name) for name in kept},
            "images": self._fingerprint,
            "proposals": None if self.proposals is None else self.proposals.fingerprint,
        }

    def __getitem__(self, draw: SampleIndex) -> ConceptSample:
        """Reads and transforms one image, and draws one of its captions.

        Raises:
            InputError: if the image cannot be read, or has no caption.
        """
        row, path = draw.row, self.listed.image(draw.row).path
        stored = decode_image(self.listed.read(row), self.listed.place_of(row))
        view_rng, concept_rng = generators(self.seed, draw, row)
        regions = None
        if self.proposals is not None:
            regions = np.array(self.proposals.of(path).boxes[: self.source.limit])
        no_boxes, no_labels = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
        view = self.transform(Example(stored, no_boxes, no_labels, regions=regions), view_rng)
        captions = [caption for caption in self.captions(row) if caption]
        if not captions:
            raise self._without_caption([path])
        caption = captions[int(concept_rng.integers(len(captions)))]
        height, width, _ = stored.shape
        return ConceptSample(
            image=to_tensor(view.image),
            names=self._concepts(caption),
            targets=Targets(torch.tensor(no_boxes), torch.tensor(no_labels)),
            negatives=(),
            record=Record(row, path, height, width),
            caption=caption,
            regions=_seen(view),
        )

    def _concepts(self, caption: str) -> tuple[str, ...]:
        found = self.phrases.of(caption)
        if found and not self.source.whole_caption:
            return found
        return tuple(dict.fromkeys([*found, caption]))

    def _without_caption(self, paths: list[str]) -> InputError:
        fix = "give each one, in a captions file or beside it in its shard, or leave it out"
        return self._lacking(paths, "have no caption", "captions", fix)

    def _lacking(self, paths: list[str], problem: str, field: str, fix: str) -> InputError:
        examples = ", ".join(map(repr, paths[:3])) + (", ..." if len(paths) > 3 else "")
        problem = f"{len(paths)} of {len(self.listed)} images {problem}: {examples}"
        return InputError(problem, fix=fix, file=self.listed.place, field=field)


def _seen(view: Example) -> Float[Tensor, "R 4"] | None:
    """Returns the proposals cut to the view, without what is less than a pixel there."""
    if view.regions is None:
        return None
    height, width = view.image.shape[:2]
    inside = view.regions.clip(0, np.array([width, height] * 2, dtype=np.float32))
    return torch.tensor(inside[(inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)])
