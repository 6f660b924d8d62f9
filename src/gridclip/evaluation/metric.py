"""LVIS AP of a running validation, on one process or many."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gridclip.data.annotations.table import Annotations
from gridclip.evaluation.detections import BOXES_PER_IMAGE, DetectionTable, Protocol
from gridclip.evaluation.false_alarms import LIMIT
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.lvis import Metrics, Scored, choose, measure, measure_masks
from gridclip.evaluation.masks import Masks, mask_codes
from gridclip.evaluation.matching import match
from gridclip.io.matches import Matches
from gridclip.structures import Detections, Record


class LVISAveragePrecision(Metric):
    """AP over exactly the images seen since the last reset, whichever rank saw them.

    An image seen twice counts once: a DistributedSampler repeats some to give all ranks as many.

    A detection takes 28 bytes here (box, score, category id), and `compute` brings those of every
    rank to each. Under the standard protocol at most 300 an image are kept, so 20 000 images take
    at most 170 MB. Under the fixed protocol nothing can go before all images are seen, so memory
    grows with what the detector returns: 560 MB for the same images at 1 000 an image.

    Args:
        annotations: The data set's json file, in LVIS or COCO form; or its table, read by the rules
            of evaluation or validation.
        protocol: standard (the best 300 boxes an image) or fixed (the best 10 000 a category).
        false_alarms: How many boxes of an absent name in an image APfa allows, on average.
        masks: Whether detections have masks. They are kept as codes, some hundred bytes each, and
            scored where the annotations were read with theirs.

    Raises:
        InputError: if the annotation file is malformed.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    # Each a list of tensors to be joined: of S images, and of all their M detections in that order.
    image_ids: list[Tensor]  # S
    counts: list[Tensor]  # S, the detections of an image
    boxes: list[Tensor]  # M 4, xyxy in pixels of the original image
    scores: list[Tensor]  # M
    category_ids: list[Tensor]  # M, ids of the annotation file
    # Where detections have masks: S 2, height and width; M, bytes of a code; those bytes.
    sizes: list[Tensor]
    code_lengths: list[Tensor]
    codes: list[Tensor]

    def __init__(
        self,
        annotations: str | Path | Annotations,
        protocol: Protocol = "standard",
        false_alarms: float = LIMIT,
        *,
        masks: bool = False,
    ) -> None:
        super().__init__()
        self.masks = masks
        self.truth = GroundTruth.of(annotations)
        self.protocol, self.false_alarms = protocol, false_alarms
        self.scored: Scored | None = None  # of all ranks, once computed; like the rest, until reset
        states = ("image_ids", "counts", "boxes", "scores", "category_ids")
        for state in (*states, "sizes", "code_lengths", "codes") if masks else states:
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        self.scored = None
        # A rank without images must send tensors of the right type and shape for the others to
        # join; torchmetrics would send a float vector for each state.
        nothing = torch.empty(0, dtype=torch.long, device=self.device)
        self._append(nothing, nothing, nothing.new_empty(0, 4), nothing, nothing)
        if self.masks:
            self._append_masks((0, 0), [])
            self.sizes[0] = self.sizes[0][:0]

    def update(
        self, records: list[Record], detections: list[Detections], category_ids: Int[Tensor, "K"]
    ) -> None:
        """Takes in what was found in some images.

        Args:
            records: Where each image comes from.
            detections: What was found in each, labels being rows of the vocabulary.
            category_ids: The annotation file's id for each row of the vocabulary.
        """
        for record, found in zip(records, detections, strict=True):
            kept = torch.sort(found.scores, descending=True, stable=True).indices
            if self.protocol == "standard":
                kept = kept[:BOXES_PER_IMAGE]
            self._append(
                torch.tensor([record.image_id]),
                torch.tensor([len(kept)]),
                found.boxes[kept],
                found.scores[kept],
                category_ids.to(found.labels.device)[found.labels[kept]],
            )
            if self.masks:
                size = record.height, record.width
                self._append_masks(size, mask_codes(found.take(kept), size))

    def compute(self) -> Metrics:
        """The figures over all images of all ranks, the same on each.

        Raises:
            InputError: if an image or a category is not one of the annotation file, or a score or
                a box is not finite.
        """
        image_ids = dim_zero_cat(self.image_ids).tolist()
        table, protocol = self._table(), self.protocol
        self.scored = choose(self.truth, table, protocol=protocol, image_ids=image_ids)
        metrics = measure(self.scored, false_alarms=self.false_alarms)
        if table.masks is None or self.truth.masks is None:
            return metrics
        shapes = choose(self.truth, table, protocol=protocol, image_ids=image_ids, kind="segm")
        return metrics._replace(of_masks=measure_masks(shapes))

    def matches(self) -> Matches:
        """Which of the boxes that were last computed are right, image by image; for a file."""
        assert self.scored is not None  # there are figures
        return match(self.scored)

    def results(self) -> list[dict[str, Any]]:
        """All detections of all ranks in LVIS results form, for a file; to be called on each rank.

        Under the standard protocol these are the best 300 of each image.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._table().to_json()

    def _append(
        self, image_ids: Tensor, counts: Tensor, boxes: Tensor, scores: Tensor, categories: Tensor
    ) -> None:
        self.image_ids.append(image_ids.to(self.device, torch.long))
        self.counts.append(counts.to(self.device, torch.long))
        self.boxes.append(boxes.detach().to(self.device, torch.float))
        self.scores.append(scores.detach().to(self.device, torch.float))
        self.category_ids.append(categories.to(self.device, torch.long))

    def _append_masks(self, size: tuple[int, int], codes: list[bytes]) -> None:
        lengths = torch.tensor([*map(len, codes)], dtype=torch.long)
        text = torch.from_numpy(np.frombuffer(b"".join(codes), dtype=np.uint8).copy())
        self.sizes.append(torch.tensor([size], device=self.device))
        self.code_lengths.append(lengths.to(self.device))
        self.codes.append(text.to(self.device))

    def _masks(self, visit: Int[np.ndarray, "M"]) -> Masks:
        """The masks of all detections, whose images are the rows `visit`."""
        states = (self.sizes, self.code_lengths, self.codes)
        sizes, lengths, codes = (dim_zero_cat(state).cpu().numpy() for state in states)
        ends = np.cumsum(lengths)
        text = codes.tobytes()
        each = [text[end - long : end] for end, long in zip(ends, lengths, strict=True)]
        return Masks.of(each, sizes[visit])

    def _table(self) -> DetectionTable:
        """The detections, those of an image that was seen twice once."""
        states = (self.image_ids, self.counts, self.boxes, self.scores, self.category_ids)
        image_ids, counts, boxes, scores, categories = (
            dim_zero_cat(state).cpu().numpy() for state in states
        )
        _, first_seen = np.unique(image_ids, return_index=True)
        visit = np.repeat(np.arange(len(image_ids)), counts)
        corners = boxes.astype(np.float64)
        return DetectionTable(
            image_ids=image_ids[visit],
            category_ids=categories,
            boxes=np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]),
            scores=scores.astype(np.float64),
            masks=self._masks(visit) if self.masks else None,
        ).take(np.isin(visit, first_seen))
