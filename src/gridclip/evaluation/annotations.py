"""What is true of every image, as the evaluator reads it from an LVIS or plain COCO json file."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gridclip.errors import InputError
from gridclip.evaluation.records import Records, read_json

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
    images, categories, annotations = _parts(file)
    boxes = annotations.boxes()
    by_id = np.argsort(categories.ids("id"))
    names, frequencies = categories.column("name"), _frequencies(categories)
    truth = GroundTruth(
        file=file,
        image_ids=images.ids("id"),
        negatives=[],
        not_exhaustive=[],
        category_ids=categories.ids("id")[by_id],
        names=[str(names[i]) for i in by_id],
        frequencies=[frequencies[i] for i in by_id],
        box_images=annotations.ids("image_id"),
        box_categories=annotations.ids("category_id"),
        boxes=boxes,
        areas=_areas(annotations, boxes),
    )
    fix = "add it to the file, or take the annotation out"
    annotations.require_known(truth.box_images, "image_id", truth.image_ids, fix=fix)
    annotations.require_known(truth.box_categories, "category_id", truth.category_ids, fix=fix)
    if any(NEGATIVE in image or NOT_EXHAUSTIVE in image for image in images.items):
        truth = truth._replace(
            negatives=images.id_lists(NEGATIVE), not_exhaustive=images.id_lists(NOT_EXHAUSTIVE)
        )
    else:
        truth = _exhaustive(truth, annotations)
    return truth._of_boxes(truth.areas > 0)  # lvis does not see a box whose area is 0


def _parts(file: Path) -> tuple[Records, Records, Records]:
    """The images, categories and annotations of a file."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(
            "has no object at its top, so it is neither LVIS nor COCO form",
            fix="give the annotation file here; the detections are the file that is a list",
            file=file,
        )
    parts = []
    for key in ("images", "categories", "annotations"):
        if key not in content:
            raise InputError(
                "is missing, so this is neither LVIS nor COCO form",
                fix="give a file with images, categories and annotations",
                file=file,
                field=key,
            )
        parts.append(Records.of(content[key], key, file))
    images, categories, annotations = parts
    images.require_distinct("id")
    categories.require_distinct("id")
    categories.require_distinct("name")
    return images, categories, annotations


def _frequencies(categories: Records) -> list[str | None]:
    frequencies = [category.get("frequency") for category in categories.items]
    for index, frequency in enumerate(frequencies):
        if frequency not in ("r", "c", "f", None):
            problem, fix = f"{frequency!r} is no frequency", "write r, c or f, or leave it out"
            categories.refuse(index, "frequency", problem, fix=fix)
    return frequencies


def _areas(annotations: Records, boxes: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "T"]:
    """The areas that decide on the size bins; those of boxes to ignore lie beyond every bin."""
    if any("area" in annotation for annotation in annotations.items):
        areas = annotations.numbers("area")
    else:
        areas = boxes[:, 2] * boxes[:, 3]
    ignored = np.array([bool(item.get("ignore")) for item in annotations.items], dtype=bool)
    return np.where(ignored & (areas > 0), IGNORED_AREA, areas)


def _exhaustive(truth: GroundTruth, annotations: Records) -> GroundTruth:
    """Fill in the lists of a COCO file, and take its crowd boxes out."""
    crowd = np.array([bool(item.get("iscrowd")) for item in annotations.items], dtype=bool)
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
