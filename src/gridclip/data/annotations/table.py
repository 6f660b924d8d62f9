"""What an annotation file says, as columns: arrays that worker processes share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from gridclip.io.errors import InputError

Frequency = Literal["r", "c", "f"]


class Category(NamedTuple):
    """One category of the data set."""

    id: int  # as in the file; from 1 in what is trained on
    name: str
    frequency: Frequency | None  # rare, common or frequent in LVIS; None in COCO
    synonyms: tuple[str, ...] = ()
    image_count: int | None = None  # of the whole training set, as the file says; None: it doesn't
    instance_count: int | None = None


class Ragged(NamedTuple):
    """Lists of different lengths, end to end: one flat array that workers share."""

    values: Shaped[np.ndarray, "V ..."]
    offsets: Int64[np.ndarray, "I+1"]

    def of(self, row: int) -> Shaped[np.ndarray, "v ..."]:
        """Returns the list of one row."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def rows(self) -> Int64[np.ndarray, "V"]:
        """The row of each value."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def keep(self, kept: Bool[np.ndarray, "V"]) -> "Ragged":
        """Leaves values out; the rows stay."""
        if kept.all():
            return self  # still mapped from the index, so shared by all processes
        before = np.concatenate([[0], np.cumsum(kept)])
        return Ragged(self.values[kept], before[self.offsets])

    def keep_rows(self, kept: Bool[np.ndarray, "I"]) -> "Ragged":
        """Leaves rows out, with their values."""
        lengths = np.diff(self.offsets)
        values = self.values[np.repeat(kept, lengths)]
        return Ragged(values, np.concatenate([[0], np.cumsum(lengths[kept])]))


class ScoredBoxes(NamedTuple):
    """What detections are scored against: T boxes as the file says them, in its order.

    They are all boxes but, in an exhaustive file, crowds, and in another those of area 0.
    """

    boxes: Ragged  # float64, T x 4: x, y, width, height in pixels of the original image, unclipped
    labels: Ragged  # rows of categories
    areas: Ragged  # float64, square pixels, of the mask in LVIS; IGNORED_AREA: to be ignored
    crowds: Ragged  # rows of categories that have a crowd in the image; none unless exhaustive
    exhaustive: bool  # COCO form: a category without a box in an image is absent there
    without_area: int = 0  # boxes whose area is 0 in the file
    masks: Ragged | None = None  # a row an object: bytes of its code (`ops.rle`), if asked for

    def keep_images(self, kept: Bool[np.ndarray, "I"]) -> "ScoredBoxes":
        """Leaves images out, with their boxes."""
        lists = {name: getattr(self, name).keep_rows(kept) for name in SCORED_LISTS}
        masks = None if self.masks is None else self.masks.keep_rows(kept[self.labels.rows])
        return self._replace(**lists, masks=masks)


# Beyond the largest area bin (1e10), so a box of this area is ignored at every size.
IGNORED_AREA = 1e12


class Annotations(NamedTuple):
    """What an annotation file says: I images, C categories, T boxes of all images.

    Read by the rules of evaluation alone, `paths` are empty, `sizes` 0, and there are no `boxes`
    and `labels`; by those of training alone there is no `scored`.
    """

    file: Path
    categories: tuple[Category, ...]  # by ascending id
    image_ids: Int64[np.ndarray, "I"]
    paths: Shaped[np.ndarray, "I"]  # strings, relative to the folder of the images
    sizes: Int64[np.ndarray, "I 2"]  # height, width
    boxes: Ragged  # float32, T x 4, xyxy in pixels of the original image; without crowds
    labels: Ragged  # rows of categories, one for each box
    negative: Ragged  # rows of categories that are verified to be absent from the image
    not_exhaustive: Ragged  # rows of categories of which not every object has a box
    scored: ScoredBoxes | None = None
    groups: Mapping[str, Sequence[int]] = {}  # by name: rows of the categories in it
    masks: Ragged | None = None  # a row a box: bytes of its object's code (`ops.rle`), if asked for

    def in_folder(self, folder: str) -> "Annotations":
        """Keeps the images of one folder: LVIS minival is what lies in val2017 of LVIS val.

        Raises:
            InputError: if there is none.
        """
        kept = np.char.startswith(self.paths, folder.rstrip("/") + "/")
        if not kept.any():
            first = ", ".join(sorted({path.rpartition("/")[0] for path in self.paths[:100]})[:3])
            raise InputError(
                f"no image lies in {folder!r}; the first lie in {first!r}",
                fix="name one of the folders that the paths of the images start with",
                file=self.file,
                field="images",
            )
        return self._replace(
            image_ids=self.image_ids[kept],
            paths=self.paths[kept],
            sizes=self.sizes[kept],
            scored=self.scored and self.scored.keep_images(kept),
            masks=None if self.masks is None else self.masks.keep_rows(kept[self.labels.rows]),
            **{name: getattr(self, name).keep_rows(kept) for name in LISTS},
        )


LISTS = ("boxes", "labels", "negative", "not_exhaustive")
SCORED_LISTS = ("boxes", "labels", "areas", "crowds")
