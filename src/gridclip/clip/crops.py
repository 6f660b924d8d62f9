"""What a frozen CLIP says of regions of a picture: each is cut out and embedded as a picture."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gridclip.clip.teacher import Teacher
from gridclip.data.collate import pad
from gridclip.structures import Images

SCALES = (1.0, 1.5)
"""ViLD (2104.13921) cuts each proposal out as it is, and with some of its surroundings."""


def embed_crops(
    teacher: Teacher,
    picture: UInt8[Tensor, "3 h w"],
    boxes: Float[Tensor, "R 4"],
    *,
    scales: tuple[float, ...] = SCALES,
    batch_size: int = 32,
) -> Float[Tensor, "R E"]:
    """Unit vector of each region: those of its crops at all scales, summed and normalised.

    Args:
        teacher: Loaded.
        picture: RGB.
        boxes: xyxy, pixels of the picture.
        scales: Factors on the sides of a region; what leaves the picture is cut off.
        batch_size: Crops that the teacher sees at a time.
    """
    total = torch.zeros(len(boxes), teacher.width, device=picture.device)
    for scale in scales:
        windows = crop_windows(boxes, scale, (picture.shape[1], picture.shape[2]))
        for start in range(0, len(windows), batch_size):
            part = windows[start : start + batch_size]
            total[start : start + len(part)] += teacher(_cut(picture, part.tolist())).float()
    return F.normalize(total, dim=-1)


def crop_windows(
    boxes: Float[Tensor, "R 4"], scale: float, size: tuple[int, int]
) -> Int[Tensor, "R 4"]:
    """Whole pixels that a region, grown about its centre, touches; at least one.

    Args:
        boxes: xyxy, pixels of the picture.
        scale: Factor on both sides.
        size: Height and width of the picture.
    """
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * scale / 2
    limit = torch.tensor([size[1], size[0]], device=boxes.device)
    low = torch.minimum((centres - half).floor().long().clamp(min=0), limit - 1)
    high = torch.minimum((centres + half).ceil().long(), limit)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1)


def _cut(picture: UInt8[Tensor, "3 h w"], windows: Iterable[list[int]]) -> Images:
    crops = [picture[:, top:bottom, left:right] for left, top, right, bottom in windows]
    images = pad([crop.cpu() for crop in crops], 1)
    return Images(images.pixels.to(picture.device), images.sizes.to(picture.device))
