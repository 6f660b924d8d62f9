"""Regions of a pyramid, each resampled to the same small square."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align


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
