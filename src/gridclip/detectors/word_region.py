"""Word–region alignment as pure functions: phrases against regions of pictures (DetCLIPv2, 3.2).

Letters: P phrases, T texts (captions with their phrases), B pictures, R regions of each. The
paper's formulas were read without their typesetting and are rebuilt from its sentences.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import nms

PIECE = 2**24
"""Phrases × regions that are held at once: 64 MB of similarities, of which a few copies live."""


def select_regions(
    scores: Float[Tensor, "N"], boxes: Float[Tensor, "N 4"], *, count: int, iou: float
) -> Int[Tensor, "R"]:
    """Cells of one picture that score best, after suppression, best first; at most `count`.

    Args:
        scores: Similarity of each cell with the phrase that fits it best.
        boxes: What each cell holds for its object, xyxy.
        count: k of the paper.
        iou: Cells whose boxes overlap a better one's by more are left out; 1 keeps all.
    """
    if iou >= 1:
        return scores.topk(min(count, len(scores))).indices
    return nms(boxes, scores, iou)[:count]


def phrases_by_images(
    phrases: Float[Tensor, "P D"],
    regions: Float[Tensor, "B R D"],
    valid: Bool[Tensor, "B R"],
    *,
    softness: float | None = None,
) -> Float[Tensor, "P B"]:
    """Similarity of every phrase with every picture: that of its best region.

    Some pictures at a time, made again for gradients, so that memory does not grow with regions.

    Args:
        phrases: Vectors.
        regions: Vectors.
        valid: Which of them are regions, and no filling.
        softness: If given, the mean of all regions' similarities, weighted by their softmax at this
            temperature (one phrase, many regions); towards 0 it becomes the best region's.
    """
    step = max(1, PIECE // (len(phrases) * regions.shape[1]))
    pieces = zip(regions.split(step), valid.split(step), strict=True)
    return torch.cat([_again(_best_region, phrases, *piece, softness) for piece in pieces], dim=1)


def text_to_image(
    similarity: Float[Tensor, "P B"], present: Bool[Tensor, "T P"]
) -> Float[Tensor, "T B"]:
    """s_T: the mean over a text's phrases of their similarity with the picture (3.2)."""
    share = present.to(similarity.dtype)
    return (share / share.sum(1, keepdim=True).clamp(min=1)) @ similarity


def image_to_text(
    phrases: Float[Tensor, "P D"],
    present: Bool[Tensor, "T P"],
    regions: Float[Tensor, "B R D"],
    valid: Bool[Tensor, "B R"],
) -> Float[Tensor, "T B"]:
    """The other way: the mean over a picture's regions of their best phrase in the text.

    The paper leaves it out of its method, since most regions are spoken of by no phrase. A text
    without phrases has similarity 0 with all.
    """
    longest = max(1, int(present.sum(1).max()))
    kept, phrase = present.to(torch.int8).topk(longest, dim=1)
    entries = regions.shape[1] * (len(phrases) + phrase.numel())
    step = max(1, PIECE // max(1, entries))
    pieces = zip(regions.split(step), valid.split(step), strict=True)
    return torch.cat(
        [_again(_best_phrase, phrases, phrase, kept.bool(), *piece) for piece in pieces], dim=1
    )


def contrastive(
    logits: Float[Tensor, "t n"],
    truth: Int[Tensor, "t"],
    counted: Bool[Tensor, "t"],
    *,
    smoothing: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of each text with the pictures (or the reverse), summed over those that count.

    Args:
        logits: Similarities divided by the temperature.
        truth: The partner of each row.
        counted: Rows that teach.
        smoothing: Share of the truth that is spread evenly over all (label smoothing).
    """
    gaps = F.cross_entropy(logits, truth, reduction="none", label_smoothing=smoothing)
    return torch.where(counted, gaps, 0).sum()


def _again(function: Callable[..., Tensor], *given: object) -> Tensor:
    return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)


def _best_region(
    phrases: Float[Tensor, "P D"],
    regions: Float[Tensor, "b R D"],
    valid: Bool[Tensor, "b R"],
    softness: float | None,
) -> Float[Tensor, "P b"]:
    similarity = (phrases @ regions.flatten(0, 1).mT).unflatten(1, regions.shape[:2])
    hidden = similarity.masked_fill(~valid, -torch.inf)
    if softness is None:
        return hidden.max(-1).values
    return ((hidden / softness).softmax(-1) * similarity).sum(-1)


def _best_phrase(
    phrases: Float[Tensor, "P D"],
    phrase: Int[Tensor, "T p"],
    kept: Bool[Tensor, "T p"],
    regions: Float[Tensor, "b R D"],
    valid: Bool[Tensor, "b R"],
) -> Float[Tensor, "T b"]:
    similarity = regions @ phrases.mT
    best = similarity[..., phrase].masked_fill(~kept, -torch.inf).max(-1).values
    best = torch.where(kept.any(1) & valid[..., None], best, 0)
    return best.sum(1).mT / valid.sum(1).clamp(min=1)
