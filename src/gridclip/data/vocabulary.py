"""Which names a detector is trained on: the treatment of the rare split."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from gridclip.data.annotations.lvis import Annotations
from gridclip.errors import InputError
from gridclip.structures import Vocabulary

RareSplit = Literal["base_only", "all"]


class LabelMap(NamedTuple):
    """A vocabulary drawn from C categories of an annotation file."""

    vocabulary: Vocabulary
    rows: Int64[np.ndarray, "C"]  # row of the vocabulary for each category, -1 if left out


def label_map(annotations: Annotations, split: RareSplit) -> LabelMap:
    """Choose the names to train on.

    Args:
        annotations: The training file.
        split: `base_only` leaves rare names out, and their boxes with them, so that they are open
            words at test time; `all` takes every name.

    Raises:
        InputError: if `base_only` meets a file without frequencies, or without any base name.
    """
    frequencies = [category.frequency for category in annotations.categories]
    if split == "base_only" and None in frequencies:
        raise InputError(
            "rare_split is base_only, but no category has a frequency (r, c or f)",
            fix="write the frequencies into the file, or set data.rare_split=all",
            file=annotations.file,
            field="categories[0].frequency",
        )
    kept = np.array([split == "all" or frequency != "r" for frequency in frequencies])
    if not kept.any():
        raise InputError(
            "rare_split is base_only, but every category is rare",
            fix="mend the frequencies, or set data.rare_split=all",
            file=annotations.file,
            field="categories",
        )
    pairs = zip(annotations.categories, kept, strict=True)
    return LabelMap(
        vocabulary=Vocabulary(category.name for category, keep in pairs if keep),
        rows=np.where(kept, np.cumsum(kept) - 1, -1),
    )
