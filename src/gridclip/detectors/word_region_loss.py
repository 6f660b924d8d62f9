"""The loss of captions: which regions speak for a picture, and whose words they are."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gridclip.detectors.word_region import (
    contrastive,
    image_to_text,
    phrases_by_images,
    select_regions,
    text_to_image,
)
from gridclip.errors import InputError
from gridclip.focal import Cosines
from gridclip.gathering import gather, num_processes, total
from gridclip.structures import ConceptBatch


class Regions(NamedTuple):
    """Regions of pictures, as many of each; where there are fewer the rest is filling."""

    embeddings: Float[Tensor, "B R D"]
    valid: Bool[Tensor, "B R"]


@dataclass(frozen=True, kw_only=True)
class WordRegionLoss:
    """Contrastive alignment of captions' phrases with regions of pictures (DetCLIPv2, section 3.2).

    Regions are the cells most similar to any phrase of this process' batch, after suppression. The
    similarity of a text with a picture is the mean over its phrases of the best region's. Pictures
    of all processes compete for each text.

    Args:
        regions: k, regions of each picture.
        nms_iou: Regions whose boxes overlap a better one's by more are left out; 1 keeps all.
        temperature: τ; similarities are divided by it.
        smoothing: Label smoothing.
        matching: `one`: a phrase goes to its best region. `many`: to all, by softmax.
        softness: Of many: temperature of that softmax.
        direction: Which way; `both` is the mean of the two.
        scaled: Similarities are the logits of detection (scale · cosine) in place of the cosines.
            The paper does not tell; with cosines and its τ of 0.5 the loss is almost flat.
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
        rules = {
            "regions": self.regions >= 1,
            "nms_iou": 0 <= self.nms_iou <= 1,
            "temperature": self.temperature > 0,
            "smoothing": 0 <= self.smoothing < 1,
            "softness": self.softness > 0,
        }
        for field, right in rules.items():
            if not right:
                raise InputError(
                    f"{getattr(self, field)} is out of range",
                    field=f"words.{field}",
                    fix="give regions >= 1, nms_iou in [0, 1], smoothing in [0, 1), others > 0",
                )

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
            boxes: xyxy, pixels of the resized image; they only tell which regions overlap.
            inside: Cells whose centre lies in the picture, not in its padding.
            batch: What is said of which picture; pictures of which nothing is said teach nothing,
                but count as those that other texts do not mean.
        """
        with torch.autocast(boxes.device.type, enabled=False):
            said = batch.present.any(0)
            said[0] |= ~said.any()  # a matrix without rows is a special case everywhere
            phrases, present = cosines.text[said].float(), batch.present[:, said]
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
        """Vectors of the k regions of each picture that are most similar to any phrase."""
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
        """Sum over this process' texts (and pictures), over the count of all, times processes."""
        spoken = present.any(1)
        truth = first + torch.arange(len(present), device=present.device)
        count = total(spoken.sum().float()).clamp(min=1)
        losses = []
        if self.direction != "image_to_text":
            softness = self.softness if self.matching == "many" else None
            best = phrases_by_images(phrases, *regions, softness=softness)
            logits = text_to_image(best, present) / self.temperature
            losses.append(contrastive(logits, truth, spoken, smoothing=self.smoothing))
        if self.direction != "text_to_image":
            columns, _ = gather(image_to_text(phrases, present, *regions))
            logits = columns[:, truth].mT / self.temperature
            losses.append(contrastive(logits, truth, spoken, smoothing=self.smoothing))
        return num_processes() * torch.stack(losses).mean() / count
