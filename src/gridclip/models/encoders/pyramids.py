"""The pyramid of two-stage detectors: the backbone's own levels, and one that only proposes."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from gridclip.io.errors import InputError

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


_COARSEST = 32  # pixels of the resized image between neighbouring cells of C5


class RegionPyramid(nn.Module):
    """Feature pyramid network (1612.03144), its coarsest level pooled once more for proposals.

    Deviation: with a backbone that gives C3–C5 the finest level is P3; ViLD's is P2, which takes a
    backbone with `finest: 4`.

    Args:
        channels: Channels of the backbone's maps, the last one of stride 32.
        width: Channels of every output level.

    Attributes:
        strides: Pixels of the resized image between neighbouring cells of each level, finest first.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        finest = _COARSEST // 2 ** (len(channels) - 1)
        self.strides = tuple(finest * 2**level for level in range(len(channels) + 1))
        self.pyramid = FeaturePyramidNetwork(list(channels), width, LastLevelMaxPool())

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Levels, each (B, width, H / stride, W / stride), rounded up."""
        named = OrderedDict((str(level), each) for level, each in enumerate(maps))
        return list(self.pyramid(named).values())
