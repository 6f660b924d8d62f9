"""What is true of every image, in the form that the evaluators take."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gridclip.data.annotations.groups import add_groups
from gridclip.data.annotations.reader import Annotations, Ragged, read_annotations
from gridclip.data.annotations.table import ScoredBoxes
from gridclip.evaluation.masks import Masks
from gridclip.io.errors import InputError


class GroundTruth(NamedTuple):
    """The annotations of a data set: I images, K categories by rising id, T boxes."""

    file: Path
    image_ids: Int[np.ndarray, "I"]
    exhaustive: bool  # whether a category without a box in an image is absent there, as in COCO
    negative: Ragged  # of each image: ids of categories listed as absent
    not_exhaustive: Ragged  # of each image: ids of categories boxed in part only
    category_ids: Int[np.ndarray, "K"]
    names: list[str]
    frequencies: list[str | None]  # "r", "c", "f", or None where the file does not say
    groups: Mapping[str, Sequence[int]]  # named groups: rows of the categories in each
    box_images: Int[np.ndarray, "T"]  # image ids
    box_categories: Int[np.ndarray, "T"]  # category ids
    boxes: Float[np.ndarray, "T 4"]  # x, y, width, height in pixels of the original image
    areas: Float[np.ndarray, "T"]  # square pixels, of the mask in LVIS: they decide on s, m, l
    sizes: Int[np.ndarray, "I 2"]  # height, width of each image; 0 where nobody asked
    masks: Masks | None = None  # of each object, if they were asked for

    @staticmethod
    def of(
        source: str | Path | Annotations, groups: Path | None = None, *, masks: bool = False
    ) -> "GroundTruth":
        """Takes what is evaluated from a table of annotations.

        AP by frequency needs a frequency on the categories, which COCO lacks, and is undefined
        without.

        Args:
            source: The table, or a json file in LVIS or COCO form.
            groups: A json file with named groups of categories beside those of the source.
            masks: Whether a file's objects need masks, and they are read; a table has its own.

        Raises:
            InputError: if the file is of neither form, or contradicts itself; or if the table was
                read for training alone.
        """
        annotations = source
        if not isinstance(annotations, Annotations):
            annotations = read_annotations(Path(annotations), rules="evaluation", masks=masks)
        scored = annotations.scored
        if scored is None:
            fix = "read_annotations(file, rules='evaluation'), or give the file's path"
            raise InputError("was read for training alone", fix=fix, file=annotations.file)
        if groups is not None:
            annotations = add_groups(annotations, groups)
        ids = np.array([category.id for category in annotations.categories], dtype=np.int64)
        partial = scored.crowds if scored.exhaustive else annotations.not_exhaustive
        return GroundTruth(
            file=annotations.file,
            image_ids=annotations.image_ids,
            exhaustive=scored.exhaustive,
            negative=_named(annotations.negative, ids),
            not_exhaustive=_named(partial, ids),
            category_ids=ids,
            names=[category.name for category in annotations.categories],
            frequencies=[category.frequency for category in annotations.categories],
            groups=annotations.groups,
            box_images=annotations.image_ids[scored.labels.rows],
            box_categories=ids[scored.labels.values],
            boxes=scored.boxes.values,
            areas=scored.areas.values,
            sizes=annotations.sizes,
            masks=_masks(scored, annotations.sizes),
        )

    @property
    def dataset(self) -> str:
        """The name that goes with the figures: the file's folder and stem."""
        return f"{self.file.resolve().parent.name}/{self.file.stem}"

    def of_images(self, image_ids: Iterable[int]) -> "GroundTruth":
        """Returns the part that concerns these images; one named twice counts once.

        Raises:
            InputError: if the file has no such image.
        """
        wanted = np.unique(np.array(list(image_ids), dtype=np.int64))
        unknown = wanted[~np.isin(wanted, self.image_ids)]
        if unknown.size:
            raise InputError(
                f"has no image {unknown[0]} ({unknown.size} of {wanted.size} ids are unknown)",
                fix="evaluate against the annotations of the images that were run",
                file=self.file,
            )
        images, boxes = np.isin(self.image_ids, wanted), np.isin(self.box_images, wanted)
        return self._replace(
            image_ids=self.image_ids[images],
            negative=self.negative.keep_rows(images),
            not_exhaustive=self.not_exhaustive.keep_rows(images),
            box_images=self.box_images[boxes],
            box_categories=self.box_categories[boxes],
            boxes=self.boxes[boxes],
            areas=self.areas[boxes],
            sizes=self.sizes[images],
            masks=None if self.masks is None else self.masks.take(boxes),
        )

    def knows(
        self, image_ids: Int[np.ndarray, "M"], category_ids: Int[np.ndarray, "M"]
    ) -> Bool[np.ndarray, "M"]:
        """Returns whether each category is known to be present or absent in the image beside it.

        Args:
            image_ids: Ids of this file's images.
            category_ids: Ids of this file's categories.
        """
        if self.exhaustive:
            return np.ones(len(image_ids), dtype=bool)
        images = np.concatenate([self.box_images, self.image_ids[self.negative.rows]])
        categories = np.concatenate([self.box_categories, self.negative.values])
        known = self._pairs(images, categories)
        return np.isin(self._pairs(image_ids, category_ids), known)

    def absences(
        self, image_ids: Int[np.ndarray, "M"], category_ids: Int[np.ndarray, "M"]
    ) -> tuple[Bool[np.ndarray, "M"], int]:
        """Returns where the category is verified to be absent from the image beside it.

        In LVIS form a category is that is listed as absent; in COCO form, one without a box. One
        with a box, a crowd, or not boxed exhaustively is present, whatever the lists say.

        Args:
            image_ids: Ids of this file's images.
            category_ids: Ids of this file's categories.

        Returns:
            The mask, and the number of all such pairs of an image and a category.
        """
        partial = self.image_ids[self.not_exhaustive.rows], self.not_exhaustive.values
        images = np.concatenate([self.box_images, partial[0]])
        present = np.unique(self._pairs(images, np.concatenate([self.box_categories, partial[1]])))
        asked = self._pairs(image_ids, category_ids)
        if self.exhaustive:
            return ~np.isin(asked, present), len(self.image_ids) * len(self.names) - len(present)
        listed = self._pairs(self.image_ids[self.negative.rows], self.negative.values)
        absent = np.setdiff1d(listed, present)
        return np.isin(asked, absent), len(absent)

    def _pairs(
        self, image_ids: Int[np.ndarray, "M"], category_ids: Int[np.ndarray, "M"]
    ) -> Int[np.ndarray, "M"]:
        """Returns one number for each pair of an image and a category."""
        columns = np.searchsorted(self.category_ids, category_ids)
        return np.searchsorted(np.sort(self.image_ids), image_ids) * len(self.names) + columns


def _masks(scored: ScoredBoxes, sizes: Int[np.ndarray, "I 2"]) -> Masks | None:
    if scored.masks is None:
        return None
    rows = scored.labels.rows
    return Masks.of([scored.masks.of(row).tobytes() for row in range(len(rows))], sizes[rows])


def _named(rows: Ragged, category_ids: Int[np.ndarray, "K"]) -> Ragged:
    """Turns rows of categories into their ids."""
    return Ragged(category_ids[rows.values], rows.offsets)
