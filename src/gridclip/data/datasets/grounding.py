"""Grounding files in MDETR's form: a caption for each image, and boxes of spans of it.

Such a file is one of COCO form with two more keys, `caption` of an image and `tokens_positive` of
an annotation. Read here, its categories are the phrases that the spans say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gridclip.data.annotations.cache import Columns, indexed
from gridclip.data.annotations.coco_json import CocoLists, parse_lists
from gridclip.data.annotations.schema import to_columns
from gridclip.data.annotations.table import Annotations, Category, Ragged
from gridclip.data.category_names import read_names
from gridclip.data.datasets.concepts import ConceptSample, ConceptSource, Stream, chances
from gridclip.data.datasets.detection import DetectionDataset, check_images, digest, fingerprint
from gridclip.data.datasets.noun_phrases import clean, word_set
from gridclip.data.sampling import SampleIndex, SamplingPool
from gridclip.data.transforms.augment import TrainingTransform
from gridclip.data.vocabulary import LabelMap
from gridclip.io.column_store import Texts, text_columns
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.json_table import JsonTable, is_text
from gridclip.structures import Targets, Vocabulary

_SPANS = "a list of spans of the caption: [[first character, end], ...]"
_VARIANT = "grounding"


class Grounding(NamedTuple):
    """What a grounding file says."""

    annotations: Annotations  # its categories are the phrases, in the order of first mention
    captions: Texts  # of each image


def read_grounding(file: Path) -> Grounding:
    """Read a grounding file; its columns are kept under $GRIDCLIP_CACHE, as of annotation files.

    The phrase of a box is what its spans say, cleaned as noun phrases are (`phrases.clean`). Spans
    with nothing but blanks between them are one; of several the first is the phrase, as the others
    mention the same thing again. Boxes whose phrase names nothing, and crowds, are left out. A
    image with several captions is listed several times, with an id each.

    Raises:
        InputError: if anything in it cannot be trusted, with count, examples and fix.
    """
    arrays, _ = indexed(file, _VARIANT, lambda content: _columns(file, content))
    phrases, captions = (
        Texts(arrays[name], arrays[f"{name}.ends"]) for name in ("phrases", "captions")
    )
    nothing = Ragged(np.zeros(0, np.int64), np.zeros(len(arrays["image_ids"]) + 1, np.int64))
    annotations = Annotations(
        file=file,
        categories=tuple(Category(row + 1, name, None) for row, name in enumerate(phrases.all())),
        image_ids=arrays["image_ids"],
        paths=arrays["paths"],
        sizes=arrays["sizes"],
        boxes=Ragged(arrays["boxes"], arrays["offsets"]),
        labels=Ragged(arrays["labels"], arrays["offsets"]),
        negative=nothing,
        not_exhaustive=nothing,
    )
    return Grounding(annotations, captions)


def _columns(file: Path, content: bytes) -> Columns:
    lists = parse_lists(file, content)
    _, images, annotations = lists.records(file)
    captions = images.column("caption", is_text, "text: what is said of the image")
    named, phrases = _name(annotations, dict(zip(_ids(images), captions, strict=True)))
    if not phrases:
        fix = "give boxes whose tokens_positive are spans of the caption that name something"
        raise InputError("no box has a phrase", fix=fix, file=file, field="annotations")
    categories = [{"id": row + 1, "name": phrase} for row, phrase in enumerate(phrases)]
    found = to_columns(file, CocoLists(categories, lists.images, named), shown=lists)
    arrays = {
        **{name: getattr(found, name) for name in ("image_ids", "paths", "sizes")},
        "boxes": found.boxes.values,
        "labels": found.labels.values,
        "offsets": found.boxes.offsets,
        **text_columns("phrases", phrases),
        **text_columns("captions", captions),
    }
    return Columns(arrays, {})


def _ids(images: JsonTable) -> list[int]:
    ids = images.integers("id")
    images.refuse_repeats("id", ids)
    return ids.tolist()


def _name(annotations: JsonTable, captions: dict[int, str]) -> tuple[list[Any], list[str]]:
    """Give the annotations with the number of their phrase as category, and all phrases.

    Those without a phrase become crowds, which are left out.
    """
    spans = annotations.column("tokens_positive", _is_spans, _SPANS)
    owners = annotations.integers("image_id").tolist()
    said = [captions.get(owner) for owner in owners]
    annotations.refuse(
        [text is None for text in said],
        "image_id",
        "of an image that the file does not list",
        fix="list the image, or remove the annotations",
    )
    annotations.refuse(
        [_end(each) > len(str(text)) for each, text in zip(spans, said, strict=True)],
        "tokens_positive",
        "with a span beyond the end of the caption",
        fix="count characters of the caption as it stands in the file",
    )
    phrases: dict[str, int] = {}
    named = []
    for row, text, each in zip(annotations.rows, said, spans, strict=True):
        phrase = "" if row.get("iscrowd") else clean(first_mention(str(text), each))
        number = phrases.setdefault(phrase, len(phrases) + 1) if phrase else 1
        named.append({**row, "category_id": number} | ({} if phrase else {"iscrowd": 1}))
    return named, [*phrases]


def first_mention(caption: str, spans: Sequence[Sequence[int]]) -> str:
    """Give what the first of some spans says, with those that follow it right behind.

    Args:
        caption: The whole text.
        spans: First character and end of each.
    """
    if not spans:
        return ""
    (start, end), *others = sorted(map(tuple, spans))
    for first, last in others:
        if caption[end:first].strip():
            break
        end = max(end, last)
    return caption[start:end]


def _end(spans: Sequence[Sequence[int]]) -> int:
    return max((end for _, end in spans), default=0)


def _is_spans(value: object) -> bool:
    """Tell a list of pairs of whole numbers, each in order."""
    return isinstance(value, list) and all(
        isinstance(span, list)
        and len(span) == 2
        and all(type(place) is int for place in span)
        and 0 <= span[0] < span[1]
        for span in value
    )


_DRAWN = 4  # concepts drawn for each negative that is wanted, since the caption may speak of some


@dataclass(frozen=True, kw_only=True)
class GroundingSource(Stream):
    """Images with a caption, of which some phrases have boxes.

    Args:
        file: Grounding file in MDETR's form.
        images: Folder of the images.
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
    def pool(self) -> SamplingPool:
        """What a sampler draws from."""
        return self.dataset.pool(self.source.batch_size, ratio=self.source.ratio)

    def check(self) -> None:
        """Refuse what cannot be read."""
        check_images(self.dataset.annotations, self.dataset.folder)
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

    def __getitem__(self, draw: SampleIndex | int) -> ConceptSample:
        """Read one image, and draw concepts of which its caption does not speak."""
        draw = draw if isinstance(draw, SampleIndex) else SampleIndex(row=draw, epoch=0)
        seen, image = self.dataset[draw], int(self.dataset.images[draw.row])
        caption = self.grounding.captions.of(image)
        positive, labels = torch.unique(seen.targets.labels, return_inverse=True)
        phrases = tuple(self.dataset.vocabulary.names[row] for row in positive.tolist())
        _, chance = chances(self.seed, draw, image)
        return ConceptSample(
            image=seen.image,
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
