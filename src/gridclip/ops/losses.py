"""Losses as pure functions: tensors in, one scalar out; no weights and no logging inside."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_area

from gridclip.ops.distributed import gather, share_of_mean
from gridclip.ops.focal_loss import FOCUS, STRICT, Cosines, Focus, Leniency, NegativeMask, focal_sum

ImageDistance = Literal["l1", "l2", "cosine"]


def grid_alignment(
    cosines: Cosines,
    assigned_labels: Int[Tensor, "B N"],
    *,
    negative_mask: NegativeMask | None = None,
    focus: Focus = FOCUS,
    leniency: Leniency = STRICT,
) -> Float[Tensor, ""]:
    """Aligns grid cells with category text: sigmoid focal loss, a sum over the positives' count.

    The count is that of all processes (`share_of_mean`), so that an object weighs the same beside
    many as beside few: with two images a process their own counts differ by an order of magnitude.

    The abstract of GridCLIP (2303.09252) names the alignment; its form here is our reading: focal
    loss (1708.02002, Eq. 5) on scaled cosines, as in the paper's base detector (FCOS, Eq. 2).

    Names that count nowhere are not even multiplied.

    Args:
        cosines: Every cell and every name.
        assigned_labels: The name of each cell's object, a row of the vocabulary; -1 for cells that
            belong to no object, which are negatives of every name.
        negative_mask: Which names are negatives, and where; None: all, everywhere.
        focus: Constants of the focal loss.
        leniency: Which cells teach nothing, and which names less than others.
    """
    positives = (assigned_labels >= 0).sum()
    if negative_mask is not None:
        used = _used_names(assigned_labels, negative_mask)
        cosines = cosines._replace(text=cosines.text[used])
        assigned_labels = torch.where(
            assigned_labels >= 0, (used.cumsum(0) - 1)[assigned_labels.clamp(min=0)], -1
        )
        negative_mask = NegativeMask(*(part[:, used] for part in negative_mask))
        if leniency.related is not None:
            leniency = leniency._replace(related=leniency.related[used][:, used])
    loss = focal_sum(cosines, assigned_labels, negative_mask, focus, leniency)
    return share_of_mean(loss, positives)


def _used_names(labels: Int[Tensor, "B N"], mask: NegativeMask) -> Bool[Tensor, "K"]:
    """Returns the names that are a negative or a positive anywhere."""
    shown = (labels.flatten() + 1).bincount(minlength=mask.background.shape[1] + 1)[1:] > 0
    used = shown | (mask.background | mask.foreground).any(0)
    used[0] = True  # a matrix without columns is a special case everywhere
    return used


def image_alignment(
    student: Float[Tensor, "B E"], teacher: Float[Tensor, "B E"], *, distance: ImageDistance
) -> Float[Tensor, ""]:
    """Gap between unit vectors of the same images, summed over E, mean over images.

    `l1` is E · mean|Δ|, the form of ViLD's distillation (2104.13921); `l2` the squared distance;
    `cosine` is 1 - cos. GridCLIP's own form was not seen, so all three are our reading. L1 has its
    full gradient at its optimum, where `cosine` has none: at equal weight it costs a student that
    starts as the teacher average precision.
    """
    student, teacher = F.normalize(student, dim=-1), F.normalize(teacher.detach(), dim=-1)
    match distance:
        case "l1":
            return (student - teacher).abs().sum(-1).mean()
        case "l2":
            return (student - teacher).square().sum(-1).mean()
        case "cosine":
            return (1 - (student * teacher).sum(-1)).mean()


def info_nce(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "B D"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE (CLIP, 2103.00020, figure 3): each image finds its text, and the reverse.

    The images and texts of all processes that train together compete. The value is this process'
    share of the mean over all of them (`share_of_mean`); of one process it is the plain mean.

    Args:
        images: Unit vectors of this process' images; those of others come with gradients.
        texts: Unit vectors of their texts, in the same order.
        temperature: What cosines are divided by.
    """
    all_images, first = gather(images)
    all_texts, _ = gather(texts)
    own = torch.arange(first, first + len(images), device=images.device)
    to_texts = F.cross_entropy(images @ all_texts.mT / temperature, own, reduction="sum")
    to_images = F.cross_entropy(texts @ all_images.mT / temperature, own, reduction="sum")
    return share_of_mean((to_texts + to_images) / 2, len(images))


def box_regression(
    boxes: Float[Tensor, "N 4"], truth: Float[Tensor, "N 4"], weight: Float[Tensor, "N"]
) -> Float[Tensor, ""]:
    """Generalised IoU loss (1902.09630), averaged with the cells' centreness as weight.

    The weights' sum is that of all processes, as in `grid_alignment`.
    Cells of no object have weight 0: at full size all cells cost less than to wait for their count.
    """
    gap = 1 - generalised_iou(boxes, truth)
    return share_of_mean((gap * weight).sum(), weight.sum(), least=1e-6)


def generalised_iou(
    some: Float[Tensor, "N 4"], others: Float[Tensor, "N 4"], eps: float = 1e-7
) -> Float[Tensor, "N"]:
    """IoU of each box with its partner, less the empty share of the box around both (1902.09630).

    torchvision's pairs every box with every other, and its loss waits for the device to count the
    boxes that overlap.
    """
    overlap = _area(torch.maximum(some, others)[:, :2], torch.minimum(some, others)[:, 2:])
    around = _area(torch.minimum(some, others)[:, :2], torch.maximum(some, others)[:, 2:])
    union = box_area(some) + box_area(others) - overlap
    return overlap / (union + eps) - (around - union) / (around + eps)


def _area(low: Float[Tensor, "N 2"], high: Float[Tensor, "N 2"]) -> Float[Tensor, "N"]:
    """Area between corners, zero where they are not in order."""
    width, height = (high - low).clamp(min=0).unbind(1)
    return width * height


def centreness_agreement(
    logits: Float[Tensor, "N"], truth: Float[Tensor, "N"], positive: Bool[Tensor, "N"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of predicted centreness, mean over the positive cells (FCOS, Eq. 3).

    Positive cells of all processes, as in `grid_alignment`.
    """
    gap = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return share_of_mean((gap * positive).sum(), positive.sum())


def pool_top(logits: Float[Tensor, "n K"], *, top_k: int) -> Float[Tensor, "K"]:
    """Mean of each name's best cells: an image shows a name if some of its cells do."""
    return logits.topk(min(top_k, len(logits)), dim=0).values.mean(0)


def pool_log_sum_exp(logits: Float[Tensor, "n K"], *, sharpness: float) -> Float[Tensor, "K"]:
    """log(mean(exp(r · logit))) / r, between mean (r → 0) and maximum (Pinheiro, 1411.6228).

    The formula is recalled, not read.
    """
    return (sharpness * logits).logsumexp(0) / sharpness - math.log(len(logits)) / sharpness


def pseudo_label_agreement(
    logits: Float[Tensor, "B K"], scores: Float[Tensor, "B K"], *, absent: float
) -> Float[Tensor, ""]:
    """Binary cross-entropy of images with the names that a frozen CLIP kept for them.

    Our reading: a kept name's score is its soft target. A name that was not kept is absent more
    often than not, but unchecked; it is a negative with a small weight. Without negatives every
    name would rise everywhere. The sum is divided by the number of kept names.

    Args:
        logits: Of each image with each name, pooled over its cells.
        scores: Pseudo-label in [0, 1]; 0 where the name was not kept.
        absent: Weight of names that were not kept.
    """
    kept = scores > 0
    gap = F.binary_cross_entropy_with_logits(logits, scores.to(logits.dtype), reduction="none")
    return torch.where(kept, gap, absent * gap).sum() / kept.sum().clamp(min=1)
