"""Names of regions: cosines with text vectors, and a background that has no name."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Background = Literal["learned", "zero"]


class TextClassifier(nn.Module):
    """Cosine with each name's vector and with the background's, over a temperature.

    No text says what background is. Its vector is learned, as in ViLD (2104.13921), or zero, as in
    RegionCLIP (2112.09106): then its logit is always 0, and a name must have a cosine above 0 to
    beat it.

    Args:
        width: Width D of the text vectors.
        temperature: What cosines are divided by, 0.01 as in CLIP.
        learn_temperature: Learn it, from there; ViLD keeps it.
        background: How the background has a vector.
    """

    background: Tensor

    def __init__(
        self,
        width: int,
        temperature: float,
        learn_temperature: bool,
        background: Background = "learned",
    ) -> None:
        super().__init__()
        if background == "learned":
            self.background = nn.Parameter(torch.randn(width) * 0.01)
        else:
            self.register_buffer("background", torch.zeros(width), persistent=False)
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


class Shares(NamedTuple):
    """How much what was learned from names counts beside what CLIP knows, in [0, 1]."""

    base: float  # of names that were trained on
    novel: float  # of others


def geometric_mean(
    text: Float[Tensor, "P K"],
    image: Float[Tensor, "P K"],
    base: Bool[Tensor, "K"],
    shares: Shares,
) -> Float[Tensor, "P K"]:
    """text^λ · image^(1-λ): whoever knows a name better counts more.

    It is the score of ViLD-ensemble (2104.13921) and of F-VLM (2209.15639, recalled).

    Args:
        text: Scores in [0, 1] of what learned from names.
        image: Scores in [0, 1] of CLIP, or of what learned from it.
        base: Names that were trained on.
        shares: λ of these, and of others; ViLD's released code has 2/3 and 1/3.
    """
    share = torch.where(base, shares.base, shares.novel).to(text.dtype)
    return text**share * image ** (1 - share)


Fusion = Literal["none", "sigmoid", "logit"]

DROPPED = -1.0
"""Score of what leaves: below every threshold."""


def fuse(
    named: Float[Tensor, "P K"], objectness: Float[Tensor, "P"], fusion: Fusion
) -> Float[Tensor, "P K"]:
    """Join the probability of each name with a proposal's objectness.

    `none`: the probability alone. `sigmoid`: the geometric mean of both, in [0, 1]. `logit`: as
    RegionCLIP's released code (2112.09106) has it, the root of probability times the *raw logit* of
    the objectness. There a negative logit makes a root that is no number, and rows without a number
    are dropped: so it is also a gate, which lets only proposals of objectness above one half pass,
    and scores may be above 1. Here the gate is written out, and what it stops scores `DROPPED`.

    Args:
        named: Probabilities.
        objectness: In [0, 1]; its logit is exact to a thousandth up to 10, and never above 16.
        fusion: How.
    """
    if fusion == "none":
        return named
    if fusion == "sigmoid":
        return (named * objectness[:, None]).sqrt()
    raw = objectness.float().logit(eps=1e-7)[:, None]
    return torch.where(raw > 0, (named * raw.clamp(min=0)).sqrt(), DROPPED)
