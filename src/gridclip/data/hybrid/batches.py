"""Samples of one kind into a batch: one list of concepts for all, each string once."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.collate import pad
from gridclip.data.hybrid.phrases import word_set
from gridclip.data.hybrid.source import ConceptSample, ConceptSource
from gridclip.data.sampling import Draw, Kind
from gridclip.structures import ConceptBatch, Targets, Vocabulary


class ConceptBatches(Dataset[ConceptBatch]):
    """Whole batches by their draws, all of one kind each.

    Args:
        sources: Images by their kind.
        multiple: Height and width of a batch are multiples of this, in pixels.
    """

    def __init__(self, sources: Mapping[Kind, ConceptSource], multiple: int = 32) -> None:
        self.sources, self.multiple = dict(sources), multiple

    def __getitem__(self, draws: list[Draw]) -> ConceptBatch:
        """Read, transform and pad the images of one batch."""
        kind = draws[0].source
        samples = [self.sources[kind][draw] for draw in draws]
        return gather(kind, samples, self.multiple)


class InOrder(Dataset[ConceptBatch]):
    """The same few batches, in the same order: what `overfit_batches` asks for.

    Args:
        batches: Where from.
        draws: Of each batch.
    """

    def __init__(self, batches: ConceptBatches, draws: list[list[Draw]]) -> None:
        self.batches, self.draws = batches, draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, index: int) -> ConceptBatch:
        """Read one batch."""
        return self.batches[self.draws[index]]


def gather(kind: Kind, samples: Sequence[ConceptSample], multiple: int = 32) -> ConceptBatch:
    """Pad the pictures, and bring all concepts into one list.

    What is said of any image comes first, in the order of the images; then what none of them
    shows. A label moves to the row that its name has there.

    Args:
        kind: Of all samples.
        samples: At least one.
        multiple: As in `pad`.
    """
    said = (name for sample in samples for name in sample.names)
    drawn = (name for sample in samples for name in sample.negatives)
    rows = {name: row for row, name in enumerate(dict.fromkeys([*said, *drawn]))}
    regions = [sample.regions for sample in samples if sample.regions is not None]
    present = torch.zeros(len(samples), len(rows), dtype=torch.bool)
    for image, sample in enumerate(samples):
        present[image, [rows[name] for name in sample.names]] = True
    return ConceptBatch(
        kind=kind,  # type: ignore[arg-type] # no hybrid source is of the image-level kind
        images=pad([sample.picture for sample in samples], multiple),
        targets=[_relabelled(sample, rows) for sample in samples],
        vocabulary=Vocabulary(rows),
        present=present,
        captions=tuple(sample.caption for sample in samples),
        records=[sample.record for sample in samples],
        verified=None if kind == "pairs" else _verified(samples, [*rows]),
        regions=regions or None,
    )


def _relabelled(sample: ConceptSample, rows: Mapping[str, int]) -> Targets:
    columns = torch.tensor([rows[name] for name in sample.names], dtype=torch.int64)
    return Targets(sample.targets.boxes, columns[sample.targets.labels])


def _verified(samples: Sequence[ConceptSample], names: Sequence[str]) -> Bool[Tensor, "B K"]:
    """Tell of which concepts the boxes of an image show presence or absence.

    A concept all of whose words stand in the caption, but that is none of the phrases with boxes,
    may well be there: "man" beside the phrase "tall man".
    """
    told = []
    for sample in samples:
        if sample.known is not None:
            told.append([name in sample.known for name in names])
            continue
        said = word_set(sample.caption)
        told.append([name in sample.names or not word_set(name) <= said for name in names])
    return torch.tensor(told, dtype=torch.bool).reshape(len(samples), len(names))
