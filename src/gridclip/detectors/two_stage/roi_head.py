"""The second stage: from a pooled region to a vector in the text's space, and a better box."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.errors import InputError


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """How heavy the second stage is; the defaults are ViLD's released configuration.

    Args:
        num_convs: Convolutions of 3 x 3 over a region.
        num_fcs: Fully connected layers behind them, at least one.
        fc_width: Width of these.
        side: Cells along one side of a pooled region.
        norm: `batch` as published (with --trainer.sync_batchnorm=true over processes), `group`
            where batches are small.
    """

    num_convs: int = 4
    num_fcs: int = 2
    fc_width: int = 1024
    side: int = 7
    norm: Literal["batch", "group"] = "batch"

    def __post_init__(self) -> None:
        least = {"num_convs": 0, "num_fcs": 1, "fc_width": 8, "side": 1}
        for field, bound in least.items():
            if getattr(self, field) < bound:
                raise InputError(
                    f"{getattr(self, field)} is below {bound}",
                    field=f"head.{field}",
                    fix=f"give {bound} or more",
                )


class RegionOutput(NamedTuple):
    """What the head says of each of P regions."""

    embeddings: Float[Tensor, "P D"]  # unit length
    offsets: Float[Tensor, "P 4"] | None  # from the region to its object's box


class RegionHead(nn.Module):
    """Convolutions, fully connected layers, a projection to the text's space, class-agnostic boxes.

    Args:
        width: Channels of the pyramid.
        embed_dim: Width D of the text vectors.
        settings: How heavy.
        boxes: Whether it refines boxes too.
    """

    def __init__(
        self, width: int, embed_dim: int, settings: HeadSettings, *, boxes: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(settings.num_convs):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [conv, _norm(settings.norm, width), nn.ReLU(inplace=True)]
        layers.append(nn.Flatten())
        last = width * settings.side**2
        for _ in range(settings.num_fcs):
            layers += [nn.Linear(last, settings.fc_width), nn.ReLU(inplace=True)]
            last = settings.fc_width
        self.tower = nn.Sequential(*layers)
        self.project = nn.Linear(last, embed_dim)
        self.box = nn.Linear(last, 4) if boxes else None
        if self.box is not None:
            nn.init.normal_(self.box.weight, std=0.001)
            nn.init.zeros_(self.box.bias)

    def forward(self, pooled: Float[Tensor, "P C side side"]) -> RegionOutput:
        """Embed and refine pooled regions."""
        features = self.tower(pooled)
        # In single precision, as everything that a small temperature multiplies.
        embeddings = F.normalize(self.project(features).float(), dim=-1, eps=1e-6)
        return RegionOutput(embeddings, None if self.box is None else self.box(features).float())


def _norm(kind: Literal["batch", "group"], width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(max(1, width // 8), width)
