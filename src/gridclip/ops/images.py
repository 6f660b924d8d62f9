"""From bytes to what a network was trained on."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn

from gridclip.structures import (
    Images,
)


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


def pad(pictures: Sequence[UInt8[Tensor, "3 _ _"]], multiple: int = 32) -> Images:
    """Put pictures into one tensor, zeros to the right and below.

    Args:
        pictures: RGB, any sizes.
        multiple: Height and width of the batch become multiples of this, so that each pyramid level
            is half of the one before.
    """
    sizes = torch.tensor([picture.shape[1:] for picture in pictures])
    height, width = (-(-sizes.amax(0) // multiple) * multiple).tolist()
    pixels = torch.empty(len(pictures), 3, height, width, dtype=torch.uint8)
    for canvas, picture in zip(pixels, pictures, strict=True):
        _, bottom, right = picture.shape
        _copy(picture, canvas[:, :bottom, :right])
        canvas[:, bottom:] = 0
        canvas[:, :bottom, right:] = 0
    return Images(pixels, sizes)


def _copy(picture: UInt8[Tensor, "3 h w"], canvas: UInt8[Tensor, "3 h w"]) -> None:
    """Copy a picture; OpenCV takes colours apart (channels last in memory) in half torch's time."""
    import cv2

    rows = picture.permute(1, 2, 0)
    if not rows.is_contiguous():
        canvas.copy_(picture)
        return
    for channel, plane in enumerate(canvas.numpy()):
        cv2.extractChannel(rows.numpy(), channel, plane)


def squeeze(images: Images, side: int) -> Float[Tensor, "B 3 side side"]:
    """Resize each picture, without its padding, to a square, whatever its ratio; RGB 0-255."""
    squares = [
        F.interpolate(
            pixels[None, :, :height, :width].float(),
            size=(side, side),
            mode="bicubic",
            antialias=True,
        ).clamp(0, 255)
        for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True)
    ]
    return torch.cat(squares)
