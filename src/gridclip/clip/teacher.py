"""The frozen CLIP image tower that teaches whole-image embeddings, in training only."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.clip.openclip import ClipModel, Frozen, pixel_scale
from gridclip.pixels import PixelNorm
from gridclip.structures import Images


class ClipTeacher(nn.Module):
    """Embeds whole pictures with a frozen CLIP image tower.

    Each picture, without its padding, is resized to the tower's own square, so that nothing is
    cropped away: an object near the border is in the embedding as well (our reading of GridCLIP).

    Args:
        clip: The teacher; it may be another model than the detector's own.
    """

    def __init__(self, clip: ClipModel) -> None:
        super().__init__()
        model = clip.create()
        scale = pixel_scale(model)
        self.side = scale.side
        self.norm = PixelNorm(scale.mean, scale.std)
        self.tower = Frozen(model.visual)  # type: ignore[arg-type]
        with torch.no_grad():
            probe = self.tower(torch.zeros(1, 3, self.side, self.side))
        self.width: int = probe.shape[-1]

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each picture."""
        squares = [
            F.interpolate(
                pixels[None, :, :height, :width].float(),
                size=(self.side, self.side),
                mode="bicubic",
                antialias=True,
            ).clamp(0, 255)
            for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True)
        ]
        return F.normalize(self.tower(self.norm(torch.cat(squares))), dim=-1)
