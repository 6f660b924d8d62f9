"""The training vocabulary: its categories, their frequency, and what images verify of them."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from gridclip.data.annotations.reader import Annotations, Ragged
from gridclip.io.errors import InputError, require_fraction
from gridclip.structures import Vocabulary

RareSplit = Literal["base_only", "all"]


class LabelMap(NamedTuple):
    """A vocabulary drawn from C categories of an annotation file."""

    vocabulary: Vocabulary
    rows: Int64[np.ndarray, "C"]  # row of the vocabulary for each category, -1 if left out


def label_map(annotations: Annotations, split: RareSplit) -> LabelMap:
    """Chooses the categories to train on.

    Args:
        annotations: The training file.
        split: `base_only` leaves rare categories and their boxes out, so that they are novel at
            test time; `all` takes every category.

    Raises:
        InputError: if `base_only` meets a file without frequencies, or without any base category.
    """
    frequencies = [category.frequency for category in annotations.categories]
    if split == "base_only" and None in frequencies:
        raise InputError(
            "rare_split is base_only, but no category has a frequency (r, c or f)",
            fix="write the frequencies into the file (of YOLO and VOC into side.json beside "
            "them), or set data.rare_split=all",
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


def image_counts(labels: Ragged, num_categories: int) -> Int64[np.ndarray, "K"]:
    """Counts the images that have a box of each category.

    Args:
        labels: For each image the rows of the training vocabulary of its boxes.
        num_categories: Size K of the training vocabulary.
    """
    images, names = labels.rows, labels.values.astype(np.int64)
    seen = np.unique(images * num_categories + names)
    counts: Int64[np.ndarray, K] = np.bincount(seen % num_categories, minlength=num_categories)
    return counts


def category_frequency(labels: Ragged, num_categories: int) -> Float[np.ndarray, "K"]:
    """Returns the share of all images that have a box of each category; see `image_counts`."""
    images = max(len(labels.offsets) - 1, 1)
    return image_counts(labels, num_categories) / images


def repeat_factors(labels: Ragged, num_categories: int, threshold: float) -> Float[np.ndarray, "I"]:
    """Returns how often an epoch shows each image, so that rare categories are seen more often.

    Repeat-factor sampling of LVIS (1908.03195, recalled): a category in a share f of all images has
    the factor r = max(1, sqrt(threshold / f)), an image the largest of its categories. LVIS uses a
    threshold of 0.001.

    Args:
        labels: For each image the rows of the training vocabulary of its boxes.
        num_categories: Size K of the training vocabulary.
        threshold: Share of images below which a category is repeated; 0 repeats none.

    Returns:
        A factor of at least 1 for each image; 1 for those without boxes.

    Raises:
        InputError: if the threshold is no share.
    """
    require_fraction(repeat_threshold=threshold)
    frequency = category_frequency(labels, num_categories)
    # Categories that no image shows repeat nothing; any share does for them.
    of_category = np.maximum(1, np.sqrt(threshold / np.where(frequency, frequency, 1)))
    factors = np.ones(len(labels.offsets) - 1)
    np.maximum.at(factors, labels.rows, of_category[labels.values])
    return factors


def verified_names(annotations: Annotations, labels: LabelMap) -> Ragged | None:
    """Returns the categories whose presence or absence an image's annotations verify (LVIS v1).

    Those are the categories with a box and those of `neg_category_ids`, but for those of
    `not_exhaustive_category_ids`: of these some objects have no box, so a grid cell outside the
    boxes may well show one, and must not learn that it does not.

    Returns:
        For each image rows of the training vocabulary, ascending. None for a file in which no image
        has either list, as in COCO form: there every category is verified in every image.
    """
    if not len(annotations.negative.values) and not len(annotations.not_exhaustive.values):
        return None
    present, absent, partial = (
        _pairs(listed, labels)
        for listed in (annotations.labels, annotations.negative, annotations.not_exhaustive)
    )
    known = np.setdiff1d(np.union1d(present, absent), partial, assume_unique=True)
    names, images = len(labels.vocabulary), len(annotations.image_ids)
    return Ragged(known % names, np.searchsorted(known, np.arange(images + 1) * names))


def _pairs(listed: Ragged, labels: LabelMap) -> Int64[np.ndarray, "V"]:
    """Returns image × K + row of the vocabulary for what is listed and trained on; distinct."""
    rows = labels.rows[listed.values]
    images = listed.rows * len(labels.vocabulary)
    pairs: Int64[np.ndarray, V] = np.unique((images + rows)[rows >= 0])
    return pairs
