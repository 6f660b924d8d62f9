"""CLIP's attention pool, kept dense: one vector for the image and one for each cell."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Pooled(NamedTuple):
    """Both answers of the pool, in CLIP's embedding space."""

    image: Float[Tensor, "B E"]
    grid: Float[Tensor, "B E H W"]


class AttentionPool(nn.Module):
    """The attention pool of CLIP's convolutional towers (2103.00020, section 2.4).

    The mean token asks all cells; its answer is the image's embedding, exactly CLIP's own at the
    tower's native size. A cell's embedding is its own value, projected (MaskCLIP, 2112.01071).
    Position vectors are interpolated at each call, so any image size works.

    Args:
        width: Channels of the feature map.
        heads: Attention heads.
        embed_dim: Width E of CLIP's space.
        side: Cells along one side of the native square.
    """

    def __init__(self, width: int, heads: int, embed_dim: int, side: int) -> None:
        super().__init__()
        self.heads, self.side, self.embed_dim = heads, side, embed_dim
        self.position = nn.Parameter(torch.randn(side * side + 1, width) * width**-0.5)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, embed_dim)

    @classmethod
    def from_open_clip(cls, pool: nn.Module) -> "AttentionPool":
        """Takes over the weights of open_clip's `AttentionPool2d`."""
        names = ("positional_embedding", "q_proj", "k_proj", "v_proj", "c_proj")
        return cls._from(pool, names)

    @classmethod
    def from_timm(cls, pool: nn.Module) -> "AttentionPool":
        """Takes over the weights of timm's `AttentionPool2d` with separate q, k and v."""
        return cls._from(pool, ("pos_embed", "q", "k", "v", "proj"))

    @classmethod
    def _from(cls, pool: nn.Module, names: tuple[str, ...]) -> "AttentionPool":
        position, query, key, value, project = (getattr(pool, name) for name in names)
        side = round((len(position) - 1) ** 0.5)
        own = cls(query.in_features, int(pool.num_heads), project.out_features, side)  # type: ignore[arg-type]
        with torch.no_grad():
            own.position.copy_(position)
        for mine, theirs in (
            (own.query, query),
            (own.key, key),
            (own.value, value),
            (own.project, project),
        ):
            mine.load_state_dict(theirs.state_dict())
        return own

    def forward(self, features: Float[Tensor, "B C H W"], valid: Bool[Tensor, "B H W"]) -> Pooled:
        """Pools a feature map; cells outside `valid` take no part in the image's vector."""
        height, width = features.shape[-2:]
        inside = valid.flatten(1)
        cells = features.flatten(2).transpose(1, 2)
        mean = (cells * inside[..., None]).sum(1, keepdim=True) / inside.sum(1)[:, None, None]
        tokens = torch.cat([mean, cells], dim=1) + interpolate_positions(
            self.position, height, width
        )
        values = self.value(tokens)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(tokens[:, :1])),
            self._split(self.key(tokens)),
            self._split(values),
            attn_mask=F.pad(inside, (1, 0), value=True)[:, None, None],
        )
        image = self.project(attended.transpose(1, 2).flatten(2))[:, 0]
        grid = self.project(values[:, 1:]).transpose(1, 2).unflatten(2, (height, width))
        return Pooled(image, grid)

    def image(self, features: Float[Tensor, "P C H W"]) -> Float[Tensor, "P E"]:
        """The image's vector alone, of maps without padding: `forward(...).image`, faster.

        One token asks, so neither keys nor values of the others are made: the question is moved
        before the key's matrix, the answer before the value's. It is the same product of matrices.
        """
        height, width = features.shape[-2:]
        cells = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], dim=1)
        tokens = tokens + interpolate_positions(self.position, height, width)
        query = self.query(tokens[:, 0]).unflatten(1, (self.heads, -1))
        key, value, key_bias = (
            part.unflatten(0, (self.heads, -1))
            for part in (self.key.weight, self.value.weight, self.key.bias)
        )
        asked = torch.einsum("phc,hcw->phw", query, key)
        bias = torch.einsum("phc,hc->ph", query, key_bias)
        logits = (asked @ tokens.mT + bias[..., None]) * query.shape[-1] ** -0.5
        seen = logits.softmax(-1) @ tokens
        answer = torch.einsum("phw,hcw->phc", seen, value).flatten(1) + self.value.bias
        return self.project(answer)

    def _split(self, tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B heads L c"]:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def interpolate_positions(
    table: Float[Tensor, "cells C"], height: int, width: int
) -> Float[Tensor, "L C"]:
    """Returns position vectors for a height × width map, from those for a square one.

    Args:
        table: The vector of the mean token, then of each cell of the square, row by row.
        height: In cells.
        width: In cells.
    """
    side = round((len(table) - 1) ** 0.5)
    if (height, width) == (side, side):
        return table
    square = table[1:].T.unflatten(1, (side, side))[None]
    grid = F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T])
