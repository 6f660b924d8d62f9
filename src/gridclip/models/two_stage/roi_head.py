"""The second stage: from a pooled region to a vector in the text's space, and a better box."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align

from gridclip.io.errors import require_range


class RegionPool(nn.Module):
    """RoIAlign (1703.06870) on the level that fits a region's size (1612.03144, Eq. 1).

    torchvision's `MultiScaleRoIAlign`, but for three things: strides are given and not guessed from
    the first batch; sampling points are not shifted by half a pixel (`aligned`); every level is
    asked, even for no region, so that each has a gradient in each process.

    Args:
        strides: Pixels of the resized image between neighbouring cells of each level.
        side: Cells along one side of the answer.
        canonical: Side in pixels of a region that belongs to the level of stride 16; smaller ones
            belong to finer levels.
    """

    def __init__(self, strides: tuple[int, ...], side: int = 7, canonical: float = 224.0) -> None:
        super().__init__()
        self.strides, self.side, self.canonical = strides, side, canonical

    def forward(
        self, levels: list[Tensor], boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P C side side"]:
        """Pool the regions of each image from the first `len(strides)` levels.

        Args:
            levels: Pyramid, finest first.
            boxes: xyxy of each image, pixels of the resized image.
        """
        images = torch.arange(len(boxes), device=levels[0].device)
        owner = images.repeat_interleave(
            torch.tensor([len(b) for b in boxes], device=images.device)
        )
        regions = torch.cat([owner[:, None].to(boxes[0].dtype), torch.cat(boxes)], dim=1)
        level_of = self.level_of(regions[:, 1:])
        rows = [(level_of == level).nonzero().squeeze(1) for level in range(len(self.strides))]
        pooled = [
            roi_align(
                # Coordinates stay exact: in bfloat16 one of 1000 pixels is 8 pixels wide.
                level.to(regions.dtype),
                regions[here],
                self.side,
                spatial_scale=1 / stride,
                sampling_ratio=2,
                aligned=True,
            )
            for level, here, stride in zip(levels, rows, self.strides, strict=False)
        ]
        return torch.cat(pooled)[torch.cat(rows).argsort()]

    def level_of(self, boxes: Float[Tensor, "P 4"]) -> Int[Tensor, "P"]:
        """Which level each region is pooled from."""
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        strides = 16 * sides / self.canonical
        level = (strides / self.strides[0]).clamp(min=1e-6).log2().add(1e-6).floor().long()
        return level.clamp(0, len(self.strides) - 1)


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
            require_range(getattr(self, field), f"head.{field}", least=bound)


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
