"""What looks at a backbone's maps: the pyramid, and heads that make each of its cells a vector."""

import math
from collections import OrderedDict
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, deform_conv2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from gridclip.io.errors import InputError
from gridclip.ops.vectors import precise

STRIDES = (8, 16, 32, 64, 128)
"""Pixels of the resized image between neighbouring cells of P3–P7."""


class FPN(nn.Module):
    """Feature pyramid network (1612.03144) with P6 and P7 convolved from P5 (FCOS, section 3.2).

    Args:
        channels: Channels of C3, C4 and C5.
        width: Channels of every output level.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        if len(channels) != 3:
            raise InputError(
                f"the backbone gives {len(channels)} maps, P3 to P7 are made of C3 to C5",
                field="backbone.finest",
                fix="set it to 8; 4 is for two-stage detectors",
            )
        self.pyramid = FeaturePyramidNetwork(list(channels), width, LastLevelP6P7(width, width))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """P3–P7, each (B, width, H / stride, W / stride), rounded up."""
        named = OrderedDict((f"p{level}", each) for level, each in enumerate(maps, start=3))
        return list(self.pyramid(named).values())


class Projection(NamedTuple):
    """A 1 × 1 convolution."""

    weight: Float[Tensor, "D C 1 1"]
    bias: Float[Tensor, "D"] | None


class Projections(NamedTuple):
    """What makes the embeddings of a head's features."""

    embed: Projection
    align: Projection | None = None  # of the second embedding, if it is wanted


class LevelOutput(NamedTuple):
    """What the head says of one pyramid level."""

    embeddings: Float[Tensor, "B D h w"]  # of any length
    distances: Float[Tensor, "B 4 h w"]  # left, top, right, bottom, in strides, positive
    centreness: Float[Tensor, "B h w"]  # logits
    aligned: Float[Tensor, "B E h w"] | None = None  # of the second embedding, of any length


class GridHead(nn.Module):
    """FCOS towers shared over levels, with an embedding in place of class scores.

    Args:
        width: Channels of the pyramid.
        embed_dim: Width D of the text vectors.
        levels: Pyramid levels; each has its own scale of distances (FCOS, section 3.2).
        num_convs: Convolutions in each of the two towers; 4 in FCOS.
    """

    def __init__(self, width: int, embed_dim: int, levels: int, num_convs: int = 4) -> None:
        super().__init__()
        self.embedding_tower = _tower(width, num_convs)
        self.box_tower = _tower(width, num_convs)
        self.embed = nn.Conv2d(width, embed_dim, 1)
        self.align: nn.Conv2d | None = None
        self.box = nn.Conv2d(width, 4, 3, padding=1)
        self.centreness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        # The embedding keeps torch's own start: it is normalised, and a tiny vector that is
        # normalised has huge gradients.
        for conv in (self.box, self.centreness):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(
        self, levels: list[Tensor], projections: Projections | None = None
    ) -> list[LevelOutput]:
        """Runs the towers over every level (B, width, h, w).

        Args:
            levels: The pyramid.
            projections: What makes the embeddings, in place of the head's own convolutions, of
                which the second is left out after training.
        """
        if projections is None:
            second = self.align if self.training else None
            aligns = None if second is None else Projection(second.weight, second.bias)
            projections = Projections(self.projection, aligns)
        return [
            self._level(level, scale, projections)
            for level, scale in zip(levels, self.scales, strict=True)
        ]

    def add_second(self, width: int) -> nn.Conv2d:
        """Makes a second embedding of this width, of the features that the first is made of."""
        self.align = nn.Conv2d(self.embed.in_channels, width, 1)
        return self.align

    @property
    def projection(self) -> Projection:
        """What makes the embeddings that learn from names."""
        return Projection(self.embed.weight, self.embed.bias)

    def embedded(
        self, level: Float[Tensor, "B C h w"], of_box: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C h w"]:
        """What the embeddings are made of: the level alone here, the box tower's features too."""
        return self.embedding_tower(level)

    def _level(
        self, level: Float[Tensor, "B C h w"], scale: Float[Tensor, ""], projections: Projections
    ) -> LevelOutput:
        of_box = self.box_tower(level)
        features = self.embedded(level, of_box)
        embeddings, aligned = (
            None if each is None else F.conv2d(features, *each) for each in projections
        )
        assert embeddings is not None  # only the second may be left out
        # Deviation: bounded exponent, since one wild cell early in training gives an infinite box.
        distances = (precise(self.box(of_box)) * scale).clamp(max=math.log(1000)).exp()
        central = precise(self.centreness(of_box)[:, 0])
        return LevelOutput(embeddings, distances, central, aligned)


def _tower(width: int, num_convs: int) -> nn.Sequential:
    """Convolutions with group norm (FCOS, section 4), which needs no batch statistics.

    Groups of 8 channels, as FCOS has at width 256: on a level of one cell, a group of one channel
    would always be normalised to zero.
    """
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, std=0.01)
        layers += [conv, nn.GroupNorm(max(1, width // 8), width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


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
        first, others = cast(nn.Conv2d, self.embedding_tower[0]), self.embedding_tower[1:]
        where = self.where(of_box)
        # Deviation: twice the sigmoid, so that a sample counts once where nothing is known.
        count = 2 * where[:, 2 * _POINTS :].sigmoid()
        offsets = where[:, : 2 * _POINTS]
        # In single precision: offsets of half a pixel are lost to bf16 beyond 128 cells.
        given = (precise(part) for part in (level, offsets, count, first.weight))
        return others(deformable_convolution(*given))


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
