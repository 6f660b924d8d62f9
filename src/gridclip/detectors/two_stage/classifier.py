"""Names of regions: cosines with text vectors, and a background that has no name."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class TextClassifier(nn.Module):
    """Cosine with each name's vector and with a learned background vector, over a temperature.

    As in ViLD (2104.13921): no text says what background is, so its vector is learned.

    Args:
        width: Width D of the text vectors.
        temperature: What cosines are divided by, 0.01 as in CLIP.
        learn_temperature: Learn it, from there; ViLD keeps it.
    """

    def __init__(self, width: int, temperature: float, learn_temperature: bool) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.randn(width) * 0.01)
        self.log_scale = nn.Parameter(
            torch.tensor(-math.log(temperature)), requires_grad=learn_temperature
        )

    def forward(
        self, embeddings: Float[Tensor, "P D"], text: Float[Tensor, "K D"]
    ) -> Float[Tensor, "P K+1"]:
        """Logits of the names and, last, of the background."""
        background = F.normalize(self.background, dim=0)
        return self.without_background(embeddings, torch.cat([text, background[None]]))

    def without_background(
        self, embeddings: Float[Tensor, "P D"], text: Float[Tensor, "K D"]
    ) -> Float[Tensor, "P K"]:
        """Logits of the names alone; in full precision, as a small temperature magnifies errors."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.log_scale.exp() * (embeddings @ text.mT)


def geometric_mean(
    text: Float[Tensor, "P K"],
    image: Float[Tensor, "P K"],
    base: Bool[Tensor, "K"],
    weight: float,
) -> Float[Tensor, "P K"]:
    """ViLD-ensemble's score: whoever knows a name better counts more.

    text^λ · image^(1-λ) for names that were trained on, text^(1-λ) · image^λ for others.

    Args:
        text: Probabilities of the branch that learned from names.
        image: Probabilities of the branch that learned from CLIP.
        base: Names that were trained on.
        weight: λ; ViLD's released code has 2/3.
    """
    share = torch.where(base, weight, 1 - weight).to(text.dtype)
    return text**share * image ** (1 - share)
