"""From bytes to what a network was trained on."""

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn


class PixelNorm(nn.Module):
    """Maps RGB in 0-255 to (rgb / 255 - mean) / std; the two belong to the weights, not the data.

    Args:
        mean: Per channel, of RGB in 0-1.
        std: Per channel, of RGB in 0-1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)

    def forward(self, pixels: Num[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Normalise a batch of pictures."""
        return (pixels - self.mean) / self.std
