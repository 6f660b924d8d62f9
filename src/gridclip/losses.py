"""Losses as pure functions: tensors in, one scalar out; no weights, logging or ranks inside."""

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

ImageDistance = Literal["l1", "l2", "cosine"]

# Cells × names that are held at once: 16 MB of logits, of which a handful of copies live.
PIECE = 2**22


class Cosines(NamedTuple):
    """Logits of cells with names that are not multiplied out: scale · embeddings · text + bias."""

    embeddings: Float[Tensor, "*B N D"]  # unit length
    text: Float[Tensor, "K D"]  # unit length
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]

    def logits(self) -> Float[Tensor, "*B N K"]:
        """Multiply them out: at full size 100 MB a picture."""
        return self.scale * (self.embeddings @ self.text.mT) + self.bias


class Counted(NamedTuple):
    """Where a name counts as a negative; a positive cell learns its own name in any case."""

    background: Bool[Tensor, "B K"]  # in the cells that belong to no object
    foreground: Bool[Tensor, "B K"]  # in the cells of objects, for other names than theirs


def grid_alignment(
    cosines: Cosines,
    positive: Bool[Tensor, "B N"],
    labels: Int[Tensor, "P"],
    *,
    counted: Counted | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, ""]:
    """Align grid cells with category text: sigmoid focal loss, a sum over the positives' count.

    The abstract of GridCLIP (2303.09252) names the alignment; its form here is our reading: focal
    loss (1708.02002, Eq. 5) on scaled cosines, as in the paper's base detector (FCOS, Eq. 2).

    Logits are made and forgotten in pieces, with their gradients, as all of them take gigabytes
    at full size. Names that count nowhere are not even multiplied.

    Args:
        cosines: Every cell and every name.
        positive: Cells that belong to an object; all others are negatives for every name.
        labels: Row of the vocabulary for each of the P positive cells, in row order.
        counted: Which names are negatives, and where; None: all, everywhere.
        alpha: Weight of the positive term; 1 - alpha for the negatives.
        gamma: How strongly well-classified cells are played down.
    """
    owners = torch.full(positive.shape, -1, device=positive.device)
    owners[positive] = labels
    if counted is not None:
        used = (counted.background | counted.foreground).any(0)
        used[labels] = True
        cosines = cosines._replace(text=cosines.text[used])
        counted = Counted(counted.background[:, used], counted.foreground[:, used])
        owners = torch.where(positive, (used.cumsum(0) - 1)[owners], owners)
    total: Tensor = _FocalSum.apply(*cosines, owners, counted, alpha, gamma)
    return total / max(len(labels), 1)


class _FocalSum(torch.autograd.Function):
    """Sum of the focal loss over cells and names, a piece of cells at a time.

    The gradient is made beside the value, so that no piece is kept or made twice.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:  # noqa: ANN401 - torch's signature
        cosines, (owners, counted, alpha, gamma) = Cosines(*given[:4]), given[4:]
        cells, text, scale, bias = cosines._replace(embeddings=cosines.embeddings.flatten(0, 1))
        images = torch.arange(len(owners), device=owners.device).repeat_interleave(owners.shape[1])
        owners = owners.flatten()
        grads = Cosines(*(torch.zeros_like(part) for part in (cells, text, scale, bias)))
        total = torch.zeros_like(scale)
        step = max(1, PIECE // max(1, len(text)))
        for start in range(0, len(cells), step):
            piece = slice(start, start + step)
            cosine = (cells[piece] @ text.mT).to(scale.dtype)
            counts = counted and _counts(counted, images[piece], owners[piece])
            value, slope = _focal(scale * cosine + bias, owners[piece], counts, alpha, gamma)
            total += value.sum()
            if any(ctx.needs_input_grad):
                grads.scale.add_((slope * cosine).sum())
                grads.bias.add_(slope.sum())
                grads.embeddings[piece] = scale * (slope @ text)
            if ctx.needs_input_grad[1]:
                grads.text.add_(scale * (slope.mT @ cells[piece]))
        ctx.save_for_backward(grads.embeddings.view_as(cosines.embeddings), *grads[1:])
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401 - torch's signature
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        return *(grad * slope if asked else None for slope, asked in wanted), *[None] * 4


def _counts(
    counted: Counted, images: Int[Tensor, "n"], owners: Int[Tensor, "n"]
) -> Bool[Tensor, "n K"]:
    """Which names are negatives of each cell of a piece."""
    owned = (owners >= 0)[:, None]
    return torch.where(owned, counted.foreground[images], counted.background[images])


def _focal(
    logits: Float[Tensor, "n K"],
    owners: Int[Tensor, "n"],
    counts: Bool[Tensor, "n K"] | None,
    alpha: float,
    gamma: float,
) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n K"]]:
    """Value of each entry, and its derivative by the logit."""
    value, slope = _of_negatives(logits, gamma)
    weight: Tensor | float = 1 - alpha if counts is None else (1 - alpha) * counts
    value, slope = value.mul_(weight), slope.mul_(weight)
    rows = (owners >= 0).nonzero().squeeze(1)
    own = (rows, owners[rows])
    of_own, slope_of_own = _of_negatives(-logits[own], gamma)  # the loss is the same, mirrored
    value[own], slope[own] = alpha * of_own, -alpha * slope_of_own
    return value, slope


def _of_negatives(logits: Float[Tensor, "*n"], gamma: float) -> tuple[Tensor, Tensor]:
    """-p^γ · log(1 - p) with p = sigmoid(logit), and its derivative by the logit."""
    p, surprise = logits.sigmoid(), F.softplus(logits)
    power = p**gamma
    return power * surprise, power * (gamma * (1 - p) * surprise + p)


def image_alignment(
    student: Float[Tensor, "B E"], teacher: Float[Tensor, "B E"], *, distance: ImageDistance
) -> Float[Tensor, ""]:
    """Gap between unit vectors of the same images, summed over E, mean over images.

    `l1` is E · mean|Δ|, the form of ViLD's distillation (2104.13921); `l2` the squared distance;
    `cosine` is 1 - cos. GridCLIP's own form was not seen, so all three are our reading.
    """
    student, teacher = F.normalize(student, dim=-1), F.normalize(teacher.detach(), dim=-1)
    match distance:
        case "l1":
            return (student - teacher).abs().sum(-1).mean()
        case "l2":
            return (student - teacher).square().sum(-1).mean()
        case "cosine":
            return (1 - (student * teacher).sum(-1)).mean()


def box_regression(
    boxes: Float[Tensor, "P 4"], truth: Float[Tensor, "P 4"], weight: Float[Tensor, "P"]
) -> Float[Tensor, ""]:
    """Generalised IoU loss (1902.09630), averaged with the cells' centreness as weight."""
    gap = generalized_box_iou_loss(boxes, truth, reduction="none")
    return (gap * weight).sum() / weight.sum().clamp(min=1e-6)


def centreness_agreement(
    logits: Float[Tensor, "P"], truth: Float[Tensor, "P"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of predicted centreness, mean over the positive cells (FCOS, Eq. 3)."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / max(len(truth), 1)


def pool_top(logits: Float[Tensor, "n K"], *, top_k: int) -> Float[Tensor, "K"]:
    """Mean of each name's best cells: a picture shows a name if some of its cells do."""
    return logits.topk(min(top_k, len(logits)), dim=0).values.mean(0)


def pool_log_sum_exp(logits: Float[Tensor, "n K"], *, sharpness: float) -> Float[Tensor, "K"]:
    """log(mean(exp(r · logit))) / r, between mean (r → 0) and maximum (Pinheiro, 1411.6228).

    The formula is recalled, not read.
    """
    return (sharpness * logits).logsumexp(0) / sharpness - math.log(len(logits)) / sharpness


def pseudo_label_agreement(
    logits: Float[Tensor, "B K"], scores: Float[Tensor, "B K"], *, absent: float
) -> Float[Tensor, ""]:
    """Binary cross-entropy of pictures with the names that a frozen CLIP kept for them.

    Our reading: a kept name's score is its soft target. A name that was not kept is absent more
    often than not, but nobody looked; it is a negative with a small weight. Without negatives every
    name would rise everywhere. The sum is divided by the number of kept names.

    Args:
        logits: Of each picture with each name, pooled over its cells.
        scores: Pseudo-label in [0, 1]; 0 where the name was not kept.
        absent: Weight of names that were not kept.
    """
    kept = scores > 0
    gap = F.binary_cross_entropy_with_logits(logits, scores.to(logits.dtype), reduction="none")
    return torch.where(kept, gap, absent * gap).sum() / kept.sum().clamp(min=1)
