"""Own images and old ones as one federated data set: what nobody looked for is no background.

    <folder>/train.json, val.json        names of both; each image says which it verifies
    <folder>/images/own | old | own_val  links to where the images are

An own image verifies its own names and says nothing of old ones, and the other way round, as images
of LVIS do (`neg_category_ids`). With `verified: true` the cells of an old object without a box are
nobody's negatives then, so that learning new names does not teach to overlook old ones.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from gridclip.data.annotations.schema import image_path
from gridclip.data.annotations.table import Annotations
from gridclip.data.forms.place import DataPlace, PlacedAnnotations, converted
from gridclip.data.forms.source import form_of
from gridclip.data.forms.splits import split_of
from gridclip.io.errors import InputError
from gridclip.io.files import write_text

_SAME_OBJECT = 0.5  # IoU from which a pseudo-box shows an object that has a box already


class Found(NamedTuple):
    """What the old detector finds in an own image: a pseudo-label."""

    name: str
    box: tuple[float, float, float, float]  # xyxy, pixels of the original image


class Mixture:
    """A data set of the names and images of several, as one LVIS-form document."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._images: list[dict[str, Any]] = []
        self._boxes: list[dict[str, Any]] = []

    def add(
        self,
        part: Annotations,
        folder: str,
        *,
        names: Collection[str] | None = None,
        rows: Iterable[int] | None = None,
        found: dict[int, list[Found]] | None = None,
    ) -> None:
        """Adds images with their boxes, and what they verify.

        Args:
            part: As it was read for training.
            folder: Of its images, within the images of the mixture.
            names: Those that count; all by default. Boxes of others are left out.
            rows: Images; all by default.
            found: Of the old detector, by row: boxes of other names. Those that overlap a box of
                the file are left out; of the rest the image is not known to show all.
        """
        named = enumerate(each.name for each in part.categories)
        ids = {row: self._id(name) for row, name in named if names is None or name in names}
        federated = bool(len(part.negative.values) or len(part.not_exhaustive.values))
        for row in range(len(part.image_ids)) if rows is None else rows:
            number = len(self._images) + 1
            labels = part.labels.of(row).tolist()
            some = {*part.not_exhaustive.of(row).tolist()}
            absent = {*part.negative.of(row).tolist()} if federated else {*ids} - {*labels} - some
            height, width = part.sizes[row].tolist()
            boxes = part.boxes.of(row)
            self._box(
                number,
                ((ids[each], box) for each, box in zip(labels, boxes, strict=True) if each in ids),
            )
            more = _apart(found.get(row, []) if found else [], boxes)
            self._box(number, ((self._id(each.name), np.array(each.box)) for each in more))
            partly = {ids[each] for each in some & ids.keys()} | {
                self._id(each.name) for each in more
            }
            self._images.append(
                {
                    "id": number,
                    "file_name": f"{folder}/{part.paths[row]}",
                    "width": width,
                    "height": height,
                    "neg_category_ids": sorted(ids[each] for each in absent & ids.keys()),
                    "not_exhaustive_category_ids": sorted(partly),
                }
            )

    def document(self) -> dict[str, Any]:
        """Returns the file's content; every name counts as frequent."""
        categories = [
            {"id": number, "name": name, "frequency": "f"} for name, number in self._ids.items()
        ]
        return {"images": self._images, "annotations": self._boxes, "categories": categories}

    def _id(self, name: str) -> int:
        return self._ids.setdefault(name, len(self._ids) + 1)

    def _box(self, image: int, boxes: Iterable[tuple[int, np.ndarray]]) -> None:
        for category, corners in boxes:
            x, y, right, bottom = map(float, corners)
            self._boxes.append(
                {
                    "id": len(self._boxes) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, right - x, bottom - y],
                    "area": (right - x) * (bottom - y),
                    "iscrowd": 0,
                }
            )


def _apart(found: list[Found], boxes: np.ndarray) -> list[Found]:
    """What overlaps none of the boxes: an object has one name, and its file's is right."""
    if not found or not len(boxes):
        return found
    theirs = torch.tensor([each.box for each in found], dtype=torch.float32)
    apart = (box_iou(theirs, torch.from_numpy(boxes.copy())) < _SAME_OBJECT).all(1)
    return [each for each, keep in zip(found, apart.tolist(), strict=True) if keep]


def link_images(folder: Path, links: dict[str, Path]) -> None:
    """Makes links to folders of images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, images in links.items():
        if not (folder / "images" / name).exists():
            (folder / "images" / name).symlink_to(images.absolute(), target_is_directory=True)


def copy_validation(place: DataPlace, folder: Path) -> None:
    """Writes a validation file as it is, but for its images' folder, `own_val`.

    Raises:
        InputError: if there is none.
    """
    file, images = place.annotations, place.root / place.images
    form = None if file.is_file() else form_of(place.root)
    if form is not None:
        split = split_of(Path(place.file).name) or place.split
        file, images = converted(place.root, form, split, "refuse")
    if not file.is_file():
        fix = "name a file of images to measure on: --val"
        raise InputError("is not there", file=file, fix=fix, field="--val")
    document = json.loads(file.read_text(encoding="utf-8-sig"))
    for image in document["images"]:
        image["file_name"] = f"own_val/{image_path(image.get('file_name'), image.get('coco_url'))}"
    write_text(folder / "val.json", json.dumps(document))
    link_images(folder, {"own_val": images})


def drawn(part: PlacedAnnotations, names: Collection[str], count: int, seed: int) -> list[int]:
    """Draws images that show at least one of the names."""
    wanted = [row for row, each in enumerate(part.annotations.categories) if each.name in names]
    labels = part.annotations.labels
    rows = np.unique(labels.rows[np.isin(labels.values, wanted)])
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    return sorted(chosen.tolist())
