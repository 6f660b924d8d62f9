"""The grid head: for each cell an embedding, a box and how central the cell is to it."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Projection(NamedTuple):
    """A 1 × 1 convolution."""

    weight: Float[Tensor, "D C 1 1"]
    bias: Float[Tensor, "D"] | None


class LevelOutput(NamedTuple):
    """What the head says of one pyramid level."""

    embeddings: Float[Tensor, "B D h w"]  # of any length
    distances: Float[Tensor, "B 4 h w"]  # left, top, right, bottom, in strides, positive
    centreness: Float[Tensor, "B h w"]  # logits


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
        self.box = nn.Conv2d(width, 4, 3, padding=1)
        self.centreness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        # The embedding keeps torch's own start: it is normalised, and a tiny vector that is
        # normalised has huge gradients.
        for conv in (self.box, self.centreness):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(
        self, levels: list[Tensor], projection: Projection | None = None
    ) -> list[LevelOutput]:
        """Run the towers over every level (B, width, h, w).

        Args:
            levels: The pyramid.
            projection: What makes the embeddings, in place of `embed`.
        """
        projection = projection or Projection(self.embed.weight, self.embed.bias)
        return [
            self._level(level, scale, projection)
            for level, scale in zip(levels, self.scales, strict=True)
        ]

    def embedded(
        self, level: Float[Tensor, "B C h w"], of_box: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C h w"]:
        """What the embeddings are made of: the level alone here, the box tower's features too."""
        return self.embedding_tower(level)

    def _level(
        self, level: Float[Tensor, "B C h w"], scale: Float[Tensor, ""], projection: Projection
    ) -> LevelOutput:
        of_box = self.box_tower(level)
        embeddings = F.conv2d(self.embedded(level, of_box), *projection)
        # Deviation: bounded exponent, since one wild cell early in training gives an infinite box.
        distances = (precise(self.box(of_box)) * scale).clamp(max=math.log(1000)).exp()
        return LevelOutput(embeddings, distances, precise(self.centreness(of_box)[:, 0]))


def precise(values: Tensor) -> Tensor:
    """Single precision at least: exponents and losses are not for bf16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
