"""What a frozen CLIP saw in regions: as stored, or by looking now."""

import torch

from gridclip.clip.crops import embed_crops
from gridclip.clip.teacher import Teacher
from gridclip.detectors.two_stage.regions import Proposals
from gridclip.errors import InputError
from gridclip.structures import DetectionBatch, RegionTargets


def find_regions(
    batch: DetectionBatch, proposals: list[Proposals], teacher: Teacher | None, limit: int
) -> list[RegionTargets]:
    """Regions of each image with their CLIP embeddings, at most `limit`, the best.

    Stored ones are those of a frozen proposal network, as published. Without them the teacher
    looks at the proposals that the detector makes just now.

    Raises:
        InputError: if there is neither.
    """
    if batch.regions is not None:
        return [RegionTargets(*(part[:limit] for part in regions)) for regions in batch.regions]
    if teacher is None:
        raise InputError(
            "this batch carries no embeddings of regions, and there is no teacher",
            field="data.init_args.regions",
            fix="store them (gridclip propose, then gridclip clip embed-proposals) and name the "
            "file there, or give a teacher, or set weights.image to 0",
        )
    found = []
    with torch.no_grad():
        for pixels, (height, width), proposed in zip(
            batch.images.pixels, batch.images.sizes.tolist(), proposals, strict=True
        ):
            boxes = proposed.boxes[:limit]
            seen = embed_crops(teacher, pixels[:, :height, :width], boxes)
            found.append(RegionTargets(boxes, seen))
    return found
