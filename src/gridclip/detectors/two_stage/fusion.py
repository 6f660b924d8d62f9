"""What a region shows, and whether it shows anything at all: one score of both."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

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
