"""The loss of captions: which regions represent an image, and which phrases match them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import nms

from gridclip.io.errors import require_range
from gridclip.ops.distributed import gather, share_of_mean
from gridclip.ops.focal_loss import Cosines
from gridclip.structures import ConceptBatch

PIECE = 2**24
"""Phrases × regions that are held at once: 64 MB of similarities, of which some copies live."""


def select_regions(
    scores: Float[Tensor, "N"], boxes: Float[Tensor, "N 4"], *, count: int, iou: float
) -> Int[Tensor, "R"]:
    """Cells of one image that score best, after suppression, best first; at most `count`.

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
    """Similarity of every phrase with every image: that of its best region.

    Some images at a time, made again for gradients, so that memory does not grow with regions.

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
    """s_T: the mean over a text's phrases of their similarity with the image (3.2)."""
    share = present.to(similarity.dtype)
    return (share / share.sum(1, keepdim=True).clamp(min=1)) @ similarity


def image_to_text(
    phrases: Float[Tensor, "P D"],
    present: Bool[Tensor, "T P"],
    regions: Float[Tensor, "B R D"],
    valid: Bool[Tensor, "B R"],
) -> Float[Tensor, "T B"]:
    """The other way: the mean over an image's regions of their best phrase in the text.

    The paper leaves it out of its method, since most regions are described by no phrase. A text
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
    taught: Bool[Tensor, "t"],
    *,
    smoothing: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of each text with the images (or the reverse), summed over those that count.

    Args:
        logits: Similarities divided by the temperature.
        truth: The partner of each row.
        taught: Rows that teach.
        smoothing: Share of the truth that is spread evenly over all (label smoothing).
    """
    gaps = F.cross_entropy(logits, truth, reduction="none", label_smoothing=smoothing)
    return torch.where(taught, gaps, 0).sum()


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


class Regions(NamedTuple):
    """Regions of images, as many of each; where there are fewer, others are filled in."""

    embeddings: Float[Tensor, "B R D"]
    valid: Bool[Tensor, "B R"]


@dataclass(frozen=True, kw_only=True)
class WordRegionLoss:
    """Contrastive alignment of captions' phrases with regions of images (DetCLIPv2, section 3.2).

    Regions are the cells most similar to any phrase of this process' batch, after suppression. The
    similarity of a text with an image is the mean over its phrases of the best region's. Images
    of all processes compete for each text.

    Args:
        regions: k, regions of each image.
        nms_iou: Regions whose boxes overlap a better one's by more are left out; 1 keeps all.
        temperature: τ; similarities are divided by it.
        smoothing: Label smoothing.
        matching: `one`: a phrase goes to its best region. `many`: to all, by softmax.
        softness: Of many: temperature of that softmax.
        direction: Which way; `both` is the mean of the two.
        scaled: Similarities are the logits of detection (scale · cosine) in place of the cosines.
            The paper does not say; with cosines and its τ of 0.5 the loss is almost flat.
    """

    regions: int = 100
    nms_iou: float = 0.6
    temperature: float = 0.5
    smoothing: float = 0.1
    matching: Literal["one", "many"] = "one"
    softness: float = 0.1
    direction: Literal["text_to_image", "image_to_text", "both"] = "text_to_image"
    scaled: bool = False

    def __post_init__(self) -> None:
        require_range(self.regions, "words.regions", least=1)
        require_range(self.nms_iou, "words.nms_iou", least=0, most=1)
        require_range(self.temperature, "words.temperature", above=0)
        require_range(self.smoothing, "words.smoothing", least=0, below=1)
        require_range(self.softness, "words.softness", above=0)

    def loss(
        self,
        cosines: Cosines,
        boxes: Float[Tensor, "B N 4"],
        inside: Bool[Tensor, "B N"],
        batch: ConceptBatch,
    ) -> Float[Tensor, ""]:
        """This process' share: DDP's mean of its gradients is that of one process with all pairs.

        Args:
            cosines: Every cell and every concept of the batch's vocabulary.
            boxes: xyxy, pixels of the resized image; they only decide which regions overlap.
            inside: Cells whose centre lies in the image, not in its padding.
            batch: Which phrases belong to which image; images without phrases teach nothing,
                but count as those that other texts do not mean.
        """
        with torch.autocast(boxes.device.type, enabled=False):
            used = batch.present.any(0)
            used[0] |= ~used.any()  # a matrix without rows is a special case everywhere
            phrases, present = cosines.text[used].float(), batch.present[:, used]
            cosines = cosines._replace(text=phrases, embeddings=cosines.embeddings.float())
            if self.scaled:
                phrases = phrases * cosines.scale
            regions = self.select(cosines, boxes, inside)
            embeddings, first = gather(regions.embeddings)
            valid, _ = gather(regions.valid.to(torch.uint8))
            return self._share(phrases, present, Regions(embeddings, valid.bool()), first)

    def select(
        self, cosines: Cosines, boxes: Float[Tensor, "B N 4"], inside: Bool[Tensor, "B N"]
    ) -> Regions:
        """Vectors of the k regions of each image that are most similar to any phrase."""
        chosen, valid = [], []
        for cells, each, shown in zip(cosines.embeddings, boxes.detach(), inside, strict=True):
            with torch.no_grad():
                best = (cells @ cosines.text.mT).amax(1).masked_fill(~shown, -torch.inf)
                rows = select_regions(best, each.float(), count=self.regions, iou=self.nms_iou)
                rows = rows[shown[rows]]
            filling = self.regions - len(rows)
            chosen.append(torch.cat([cells[rows], cells.new_zeros(filling, cells.shape[1])]))
            valid.append(torch.arange(self.regions, device=cells.device) < len(rows))
        return Regions(torch.stack(chosen), torch.stack(valid))

    def _share(
        self,
        phrases: Float[Tensor, "P D"],
        present: Bool[Tensor, "b P"],
        regions: Regions,
        first: int,
    ) -> Float[Tensor, ""]:
        """This process' share of the mean over the texts (and images) of all processes."""
        captioned = present.any(1)
        truth = first + torch.arange(len(present), device=present.device)
        similarities = []
        if self.direction != "image_to_text":
            softness = self.softness if self.matching == "many" else None
            best = phrases_by_images(phrases, *regions, softness=softness)
            similarities.append(text_to_image(best, present))
        if self.direction != "text_to_image":
            columns, _ = gather(image_to_text(phrases, present, *regions))
            similarities.append(columns[:, truth].mT)
        losses = [
            contrastive(each / self.temperature, truth, captioned, smoothing=self.smoothing)
            for each in similarities
        ]
        return share_of_mean(torch.stack(losses).mean(), captioned.sum())
