"""Boxes that are given, in place of proposals."""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from gridclip.detectors.two_stage.regions import Proposals
from gridclip.errors import InputError
from gridclip.evaluation.annotations import GroundTruth, read_annotations
from gridclip.structures import Images, Record


class GivenBoxes:
    """The annotated boxes of each image of a file, by the image's id.

    Args:
        file: A json file in LVIS or COCO form; read when it is first asked.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def of(self, images: Images, records: list[Record]) -> list[Proposals]:
        """Give each image's boxes in pixels of the resized image; of all of them an object is sure.

        Raises:
            InputError: if an image is not of the file.
        """
        found = []
        for record, size in zip(records, images.sizes, strict=True):
            if record.image_id not in self._known:
                raise InputError(
                    f"has no image {record.image_id}",
                    fix="give the annotation file of the images that are evaluated",
                    file=self.file,
                    field="given",
                )
            truth = self._truth
            boxes = torch.as_tensor(truth.boxes[truth.box_images == record.image_id])
            height, width = size.tolist()
            scale = torch.tensor([width / record.width, height / record.height]).repeat(2)
            corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1) * scale
            device = images.pixels.device
            found.append(Proposals(corners.float().to(device), torch.ones(len(boxes)).to(device)))
        return found

    @cached_property
    def _truth(self) -> GroundTruth:
        return read_annotations(self.file)

    @cached_property
    def _known(self) -> set[int]:
        known: list[int] = np.unique(self._truth.image_ids).tolist()
        return set(known)
