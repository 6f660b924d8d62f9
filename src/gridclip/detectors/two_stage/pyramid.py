"""The pyramid of two-stage detectors: the backbone's own levels, and one that only proposes."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

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
