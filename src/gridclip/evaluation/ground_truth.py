"""What is true of every image, as the evaluator reads it from an LVIS or plain COCO json file."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gridclip.data.annotations.coco_json import read_lists
from gridclip.io.errors import InputError
from gridclip.io.json_table import JsonTable, is_frequency, is_text, is_whole_list

# LVIS's two lists per image: looked for and absent; present, but not every one of them boxed.
NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"

# Beyond the largest area bin (1e10), so a box of this area is ignored at every size.
IGNORED_AREA = 1e12


class GroundTruth(NamedTuple):
    """The annotations of a data set: I images, K categories by rising id, T boxes."""

    file: Path
    image_ids: Int[np.ndarray, "I"]
    negatives: list[list[int]]  # of each image: ids of categories known to be absent
    not_exhaustive: list[list[int]]  # of each image: ids of categories boxed in part only
    category_ids: Int[np.ndarray, "K"]
    names: list[str]
    frequencies: list[str | None]  # "r", "c", "f", or None where the file does not say
    box_images: Int[np.ndarray, "T"]  # image ids
    box_categories: Int[np.ndarray, "T"]  # category ids
    boxes: Float[np.ndarray, "T 4"]  # x, y, width, height in pixels of the original image
    areas: Float[np.ndarray, "T"]  # square pixels, of the mask in LVIS: they decide on s, m, l

    @property
    def dataset(self) -> str:
        """The name that travels with the figures: the file's folder and stem."""
        return f"{self.file.resolve().parent.name}/{self.file.stem}"

    def of_images(self, image_ids: Iterable[int]) -> "GroundTruth":
        """The part that concerns these images; one named twice counts once.

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
        images = np.flatnonzero(np.isin(self.image_ids, wanted))
        return self._replace(
            image_ids=self.image_ids[images],
            negatives=[self.negatives[i] for i in images],
            not_exhaustive=[self.not_exhaustive[i] for i in images],
        )._of_boxes(np.isin(self.box_images, wanted))

    def knows(
        self, image_ids: Int[np.ndarray, "M"], category_ids: Int[np.ndarray, "M"]
    ) -> Bool[np.ndarray, "M"]:
        """Whether each category is known to be present or absent in the image beside it.

        Args:
            image_ids: Ids of this file's images.
            category_ids: Ids of this file's categories.
        """
        lengths = [len(negatives) for negatives in self.negatives]
        absent = np.fromiter(chain.from_iterable(self.negatives), np.int64)
        images = np.concatenate([self.box_images, np.repeat(self.image_ids, lengths)])
        categories = np.concatenate([self.box_categories, absent])
        listed = np.isin(categories, self.category_ids)  # negatives may name any
        known = self._pairs(images[listed], categories[listed])
        return np.isin(self._pairs(image_ids, category_ids), known)

    def _pairs(
        self, image_ids: Int[np.ndarray, "M"], category_ids: Int[np.ndarray, "M"]
    ) -> Int[np.ndarray, "M"]:
        """One number for each pair of an image and a category."""
        columns = np.searchsorted(self.category_ids, category_ids)
        return np.searchsorted(np.sort(self.image_ids), image_ids) * len(self.names) + columns

    def _of_boxes(self, kept: Bool[np.ndarray, "T"]) -> "GroundTruth":
        return self._replace(
            box_images=self.box_images[kept],
            box_categories=self.box_categories[kept],
            boxes=self.boxes[kept],
            areas=self.areas[kept],
        )


def read_annotations(path: str | Path) -> GroundTruth:
    """Read an annotation file in LVIS form, or in plain COCO form by this rule.

    A COCO file has neither of LVIS's two lists per image. It is taken as exhaustively annotated: a
    category without a box in an image is absent there. A crowd box is no object; its category is
    not exhaustive in its image. AP by frequency needs a frequency on the categories, which COCO
    lacks, and is undefined without. A file without areas gets those of its boxes.

    Annotation ids are not read. They only name matches, and lvis, for which 0 means "no match",
    never finds the box with the id 0; here it counts like any other.

    Raises:
        InputError: if the file is of neither form, or contradicts itself.
    """
    file = Path(path)
    categories, images, annotations = read_lists(file)
    category_ids, boxes = _ids(categories), _boxes(annotations)
    by_id = np.argsort(category_ids)
    names = categories.column("name", is_text, "a name")
    categories.refuse_repeats("name", names)
    frequencies = categories.column("frequency", is_frequency, "r, c or f", default=None)
    truth = GroundTruth(
        file=file,
        image_ids=_ids(images),
        negatives=[],
        not_exhaustive=[],
        category_ids=category_ids[by_id],
        names=[names[i] for i in by_id],
        frequencies=[frequencies[i] for i in by_id],
        box_images=annotations.whole_numbers("image_id"),
        box_categories=annotations.whole_numbers("category_id"),
        boxes=boxes,
        areas=_areas(annotations, boxes),
    )
    for thing, ids, known in (
        ("image", truth.box_images, truth.image_ids),
        ("category", truth.box_categories, truth.category_ids),
    ):
        problem, fix = f"of no {thing} in the file", f"list the {thing}, or remove the annotations"
        annotations.refuse(~np.isin(ids, known), f"{thing}_id", problem, fix=fix)
    if any(NEGATIVE in image or NOT_EXHAUSTIVE in image for image in images.rows):
        what = "a list of category ids"
        truth = truth._replace(
            negatives=images.column(NEGATIVE, is_whole_list, what),
            not_exhaustive=images.column(NOT_EXHAUSTIVE, is_whole_list, what),
        )
    else:
        truth = _exhaustive(truth, annotations)
    return truth._of_boxes(truth.areas > 0)  # lvis does not see a box whose area is 0


def _ids(records: JsonTable) -> Int[np.ndarray, "R"]:
    ids = records.whole_numbers("id")
    records.refuse_repeats("id", ids)
    return ids


def _boxes(annotations: JsonTable) -> Float[np.ndarray, "T 4"]:
    boxes = annotations.boxes()
    problem, fix = (
        "with a negative width or height",
        "write [x, y, width, height], not [x1, y1, x2, y2]",
    )
    annotations.refuse(boxes[:, 2:].min(1, initial=0) < 0, "bbox", problem, fix=fix)
    return boxes


def _areas(annotations: JsonTable, boxes: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "T"]:
    """The areas that decide on the size bins; those of boxes to ignore lie beyond every bin."""
    if any("area" in annotation for annotation in annotations.rows):
        areas = annotations.numbers("area")
    else:
        areas = boxes[:, 2] * boxes[:, 3]
    ignored = np.array([bool(item.get("ignore")) for item in annotations.rows], dtype=bool)
    return np.where(ignored & (areas > 0), IGNORED_AREA, areas)


def _exhaustive(truth: GroundTruth, annotations: JsonTable) -> GroundTruth:
    """Fill in the lists of a COCO file, and take its crowd boxes out."""
    crowd = np.array([bool(item.get("iscrowd")) for item in annotations.rows], dtype=bool)
    crowded: dict[int, set[int]] = defaultdict(set)
    for image, category in zip(
        truth.box_images[crowd].tolist(), truth.box_categories[crowd].tolist(), strict=True
    ):
        crowded[image].add(category)
    everything = truth.category_ids.tolist()
    return truth._replace(
        negatives=[everything] * len(truth.image_ids),
        not_exhaustive=[sorted(crowded[image]) for image in truth.image_ids.tolist()],
    )._of_boxes(~crowd)
