"""The scale at which names compete in the score, fitted while the detector trains."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gridclip.ops.distributed import total
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.vectors import precise

SAMPLE = 256
"""Positive cells that are looked at in a step, of each process."""

DECAY = 0.96
"""Weight that a step keeps in the next one: after 75 steps 5 % of a gap is left."""

RANGE = (0.1, 10.0)


class ScoreScale(nn.Module):
    """The scale s at which softmax(s · logits) of training cells says their own names best.

    Focal loss trains sigmoids, whose logits are not made for a softmax. The scale minimises -log p
    of the names of positive cells, a convex function of s with slope Σ (E_p[l] - l_own) and
    curvature Σ Var_p[l]. Every step of the training is one of Newton's method, with the curvature
    of this step and of earlier ones, which count less and less: recursive least squares with
    forgetting. So the scale follows the network without a pass of its own. No loss, gradient or
    random generator is touched, and no validation image is seen.

    Training names are all that it knows. Nothing says that the same scale is best for average
    precision, nor for names that were never trained on.

    Attributes:
        value: s; 1 until the first positive cell, and within `RANGE`.
        curvature: Of this step and earlier ones.
    """

    value: Tensor
    curvature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.ones(()))
        self.register_buffer("curvature", torch.zeros(()))

    @torch.no_grad()
    def follow(self, cosines: Cosines, labels: Int[Tensor, "*B N"]) -> None:
        """Takes a step towards the best scale, the same in all processes that train together.

        Without positive cells it stays as it is. Every process has to call it.

        Args:
            cosines: Every cell and every name.
            labels: The name of each cell, a row of the vocabulary; -1 for cells of no object.
        """
        with torch.autocast(labels.device.type, enabled=False):
            slope, curvature = total(_derivatives(cosines, labels, self.value)).unbind()
        known = curvature > 0
        self.curvature.copy_(torch.where(known, DECAY * self.curvature + curvature, self.curvature))
        # Far from the minimum a step of Newton's method may go anywhere.
        least, most = self.value / 2, self.value * 2
        moved = (self.value - slope / self.curvature).clamp(least, most).clamp(*RANGE)
        self.value.copy_(torch.where(known, moved, self.value))


def _derivatives(
    cosines: Cosines, labels: Int[Tensor, "*B N"], scale: Float[Tensor, ""]
) -> Float[Tensor, "2"]:
    """Returns slope and curvature of -log p at a scale, summed over a sample of positive cells.

    The bias of the logits cancels.
    """
    cells, counts = spread(labels.flatten() >= 0, SAMPLE)
    own = labels.flatten()[cells].clamp(min=0)[:, None]
    embeddings = precise(cosines.embeddings.flatten(0, -2)[cells])
    logits = cosines.scale * (embeddings @ precise(cosines.text).mT)
    shares = (scale * logits).softmax(1)
    gaps = logits - (shares * logits).sum(1, keepdim=True)
    slope, curvature = -gaps.gather(1, own)[:, 0], (shares * gaps.square()).sum(1)
    return (torch.stack([slope, curvature]) * counts).sum(1)


def spread(chosen: Bool[Tensor, "n"], most: int) -> tuple[Int[Tensor, "m"], Bool[Tensor, "m"]]:
    """Returns so many rows that are chosen, evenly spread over all that are, each once.

    The size is fixed, so that nothing waits for a device to count them.

    Args:
        chosen: Which rows are.
        most: How many rows at most.

    Returns:
        Rows, and which of them count: where fewer are chosen, some are there for the size alone.
    """
    number = chosen.cumsum(0)
    count, places = number[-1], torch.arange(1, min(most, len(chosen)) + 1, device=chosen.device)
    wanted = torch.where(count > most, places * count // most, places)
    rows = torch.searchsorted(number, wanted).clamp(max=len(chosen) - 1)
    return rows, places <= count
