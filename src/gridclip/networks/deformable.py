"""The grid head whose embeddings look where the box tower points (DetCLIPv2, section 3.3)."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from gridclip.errors import InputError
from gridclip.networks.head import GridHead, precise

_SIDE = 3  # of the kernel
_POINTS = _SIDE * _SIDE


class DeformableGridHead(GridHead):
    """A grid head whose embedding tower begins with a modulated deformable convolution.

    Where it samples the pyramid and how much each sample counts come from the box tower's features
    (DetCLIPv2, 2304.04514, section 3.3; the operator is that of 1811.11168, Eq. 1). So what is
    learnt of words alone, without boxes, reaches the box tower as well. At the start all offsets
    are zero and all samples count alike: it is the plain head.

    Args:
        width: Channels of the pyramid.
        embed_dim: Width D of the text vectors.
        levels: Pyramid levels.
        num_convs: Convolutions in each of the two towers; the first of the embeddings' deforms.
    """

    def __init__(self, width: int, embed_dim: int, levels: int, num_convs: int = 4) -> None:
        if num_convs < 1:
            raise InputError(
                "a tower without convolutions has none to deform",
                field="num_convs",
                fix="give 1 or more, or set deformable to false",
            )
        super().__init__(width, embed_dim, levels, num_convs)
        self.where = nn.Conv2d(width, 3 * _POINTS, _SIDE, padding=1)
        nn.init.zeros_(self.where.weight)
        nn.init.zeros_(self.where.bias)  # type: ignore[arg-type]

    def embedded(
        self, level: Float[Tensor, "B C h w"], of_box: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C h w"]:
        """The embedding tower, its first convolution deformed."""
        first, rest = cast(nn.Conv2d, self.embedding_tower[0]), self.embedding_tower[1:]
        where = self.where(of_box)
        # Deviation: twice the sigmoid, so that a sample counts once where nothing is known.
        count = 2 * where[:, 2 * _POINTS :].sigmoid()
        offsets = where[:, : 2 * _POINTS]
        # In single precision: offsets of half a pixel are lost to bf16 beyond 128 cells.
        given = (precise(part) for part in (level, offsets, count, first.weight))
        return rest(deformable_convolution(*given))


def deformable_convolution(
    level: Float[Tensor, "B C h w"],
    offsets: Float[Tensor, "B 18 h w"],
    count: Float[Tensor, "B 9 h w"],
    weight: Float[Tensor, "D C 3 3"],
) -> Float[Tensor, "B D h w"]:
    """Modulated deformable convolution of 3 × 3 samples (1811.11168, Eq. 1).

    Torchvision's operator; on CPUs, where its backward pass takes 4 to 7 times as long, the same
    made of `grid_sample` and one product, which needs the room of all samples.

    Args:
        level: The map that is sampled.
        offsets: Down and right, in cells, of each sample from its place in the kernel.
        count: How much each sample counts.
        weight: The kernel.
    """
    if level.device.type != "cpu":
        return deform_conv2d(level, offsets, weight, padding=1, mask=count)
    # Deviation: the same values by other means.
    height, width = level.shape[-2:]
    point = torch.arange(_POINTS)
    down, right = offsets.unflatten(1, (_POINTS, 2)).unbind(2)
    y = down + torch.arange(height)[:, None] + (point // _SIDE - 1)[:, None, None]
    x = right + torch.arange(width) + (point % _SIDE - 1)[:, None, None]
    # grid_sample's frame: -1 and 1 are the borders of the map, centres lie half a cell inside.
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    samples = F.grid_sample(level, places.flatten(1, 2), align_corners=False)
    samples = samples.unflatten(2, (_POINTS, height)) * count[:, None]
    return torch.einsum("bckhw,dck->bdhw", samples, weight.flatten(2))
