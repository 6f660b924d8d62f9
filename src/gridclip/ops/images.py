"""Batches of images: padded, normalised as a network was trained, or resized to squares."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn

from gridclip.structures import Images


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
        """Normalises a batch of images."""
        return (pixels - self.mean) / self.std


def pad(images: Sequence[UInt8[Tensor, "3 _ _"]], multiple: int = 32) -> Images:
    """Puts images into one tensor, zeros to the right and below.

    Args:
        images: RGB, any sizes.
        multiple: Height and width of the batch become multiples of this, so that each pyramid level
            is half of the one before.
    """
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = (-(-sizes.amax(0) // multiple) * multiple).tolist()
    pixels = torch.empty(len(images), 3, height, width, dtype=torch.uint8)
    for canvas, image in zip(pixels, images, strict=True):
        _, bottom, right = image.shape
        _copy(image, canvas[:, :bottom, :right])
        canvas[:, bottom:] = 0
        canvas[:, :bottom, right:] = 0
    return Images(pixels, sizes)


def _copy(image: UInt8[Tensor, "3 h w"], canvas: UInt8[Tensor, "3 h w"]) -> None:
    """Copies an image; OpenCV splits channels that are last in memory in half torch's time."""
    import cv2

    rows = image.permute(1, 2, 0)
    if not rows.is_contiguous():
        canvas.copy_(image)
        return
    for channel, plane in enumerate(canvas.numpy()):
        cv2.extractChannel(rows.numpy(), channel, plane)


def squeeze(images: Images, side: int) -> Float[Tensor, "B 3 side side"]:
    """Resizes each image, without its padding, to a square, whatever its ratio; RGB 0-255."""
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
