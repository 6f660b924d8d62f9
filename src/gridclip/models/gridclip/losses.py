"""Which names an image is a negative of: four answers to a long tail and to unchecked names.

Formulas of the two papers are recalled and checked against public code, not read in the papers.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gridclip.io.errors import InputError, require_range
from gridclip.ops.boxes import contained
from gridclip.ops.focal_loss import Cosines, Leniency, NegativeMask
from gridclip.ops.losses import pool_log_sum_exp, pool_top, pseudo_label_agreement
from gridclip.ops.postprocess import best_logits
from gridclip.structures import Cells, DetectionBatch, Targets

NegativeKind = Literal["all", "verified", "equalised", "federated"]


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Which names a cell must not show; a positive cell learns its own name in any case.

    Args:
        kind: `all`: every other name, in every cell. `verified`: names that the image's annotations
            verify (LVIS's federated rule, 1908.03195). `equalised`: names below `rare_share` are no
            negatives of other objects' cells, the equalisation loss (2003.05176): each term has the
            weight 1 - E(r) · T(f) · (1 - y), with E = 1 in cells of an object, T = 1 if f <
            `rare_share`. `federated`: the names of the batch's boxes and others drawn by
            frequency^power, the federated loss (CenterNet2, 2103.07461).
        rare_share: Of equalised: λ, share of training images below which a name counts as rare.
        num_names: Of federated: names a batch, boxed ones included.
        power: Of federated: how much more often frequent names are drawn.
        unlabelled: Cells that some name scores above this, in [0, 1], and that lie in no box are
            nobody's negatives: they may show an object that nobody annotated. 1: none.
        related: λ, in [0, 1]: a name counts 1 - λ · cosine as a negative of another name's cells,
            so that names that mean nearly the same are not pushed apart (RT-DETR-World, whose
            form is recalled; it reports λ = 0.25). 0: fully.
    """

    kind: NegativeKind = "all"
    rare_share: float = 1.76e-3
    num_names: int = 50
    power: float = 0.5
    unlabelled: float = 1.0
    related: float = 0.0

    def __post_init__(self) -> None:
        for field in ("rare_share", "num_names", "power"):
            require_range(getattr(self, field), f"negatives.{field}", least=0)
        for field in ("unlabelled", "related"):
            require_range(getattr(self, field), f"negatives.{field}", least=0, most=1)

    def mask(self, batch: DetectionBatch) -> NegativeMask | None:
        """Where each name of the batch's vocabulary counts as a negative; None: everywhere.

        Raises:
            InputError: if the batch does not carry what the kind needs.
        """
        match self.kind:
            case "all":
                return None
            case "verified":
                return NegativeMask(*[_verified(batch)] * 2)
            case "equalised":
                common = (_frequency(batch) >= self.rare_share).expand(len(batch.targets), -1)
                return NegativeMask(torch.ones_like(common), common)
            case "federated":
                drawn = self.draw(batch).expand(len(batch.targets), -1)
                return NegativeMask(drawn, drawn)

    @torch.no_grad()
    def leniency(self, cosines: Cosines, cells: Cells, targets: list[Targets]) -> Leniency:
        """Where negatives count less than fully.

        Args:
            cosines: Every cell and every name of the batch.
            cells: The grid.
            targets: The boxes of each image.
        """
        unknown = related = None
        if self.unlabelled < 1:
            with torch.autocast(cells.centres.device.type, enabled=False):
                logits = [
                    best_logits(cosines._replace(embeddings=each)) for each in cosines.embeddings
                ]
            likely = torch.stack(logits).sigmoid() > self.unlabelled
            inside = [contained(cells.centres, target.boxes) for target in targets]
            unknown = likely & ~torch.stack(inside)
        if self.related:
            related = 1 - self.related * (cosines.text @ cosines.text.mT).clamp(min=0)
        return Leniency(unknown, related)

    def draw(self, batch: DetectionBatch) -> Bool[Tensor, "K"]:
        """Names of the batch's boxes, and others up to `num_names`, drawn without replacement.

        The draw is a function of the batch (ids of its images, boxes as they were augmented), so
        that a resumed training draws the same, and another epoch draws anew.
        """
        frequency = _frequency(batch)
        chosen = torch.zeros(len(frequency), dtype=torch.bool)
        chosen[torch.cat([target.labels for target in batch.targets]).cpu()] = True
        weights = frequency.cpu().double() ** self.power
        weights[chosen | (frequency.cpu() == 0)] = 0
        room = min(self.num_names - int(chosen.sum()), int((weights > 0).sum()))
        if room > 0:
            generator = torch.Generator().manual_seed(_seed(batch))
            chosen[torch.multinomial(weights, room, generator=generator)] = True
        return chosen.to(frequency.device)


def _seed(batch: DetectionBatch) -> int:
    ids = np.array([record.image_id for record in batch.records], dtype=np.int64)
    boxes = torch.cat([target.boxes for target in batch.targets]).float().cpu().numpy()
    return zlib.crc32(boxes.tobytes(), zlib.crc32(ids.tobytes()))


def _verified(batch: DetectionBatch) -> Bool[Tensor, "B K"]:
    if batch.verified is None:
        raise InputError(
            "the data does not say which names an image verifies",
            field="negatives.kind",
            fix="set data.init_args.verified=true; COCO form verifies all: negatives.kind=all",
        )
    return batch.verified


def _frequency(batch: DetectionBatch) -> Float[Tensor, "K"]:
    if batch.category_frequency is None:
        raise InputError(
            "the data does not say how often each category is shown",
            field="negatives.kind",
            fix="take DetectionData, or set negatives.kind=all",
        )
    return batch.category_frequency


Pooling = Literal["top", "log_sum_exp"]

# Cells × names that are held at once: 16 MB of logits, of which a handful of copies live.
PIECE = 2**22


@dataclass(frozen=True, kw_only=True)
class PseudoLabelLoss:
    """How an image's cells are pooled into one logit a name, and what its labels teach.

    An image shows a name if some of its cells do (multiple-instance learning); which form GridCLIP
    would have taken is not known, so both are our reading.

    Args:
        pooling: `top`: mean of each name's best cells. `log_sum_exp`: a soft maximum over all.
        top_k: Of top: how many cells.
        sharpness: Of log_sum_exp: from mean (0) to maximum (infinity).
        absent: Weight of names without a pseudo-label, which are taken for absent.
    """

    pooling: Pooling = "top"
    top_k: int = 8
    sharpness: float = 5.0
    absent: float = 0.1

    def __post_init__(self) -> None:
        require_range(self.top_k, "pseudo_labels.top_k", least=1)
        require_range(self.sharpness, "pseudo_labels.sharpness", above=0)
        require_range(self.absent, "pseudo_labels.absent", least=0)

    def loss(
        self, cosines: Cosines, inside: Bool[Tensor, "B N"], scores: Float[Tensor, "B K"]
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy of the pooled logits with the scores (`pseudo_label_agreement`).

        Args:
            cosines: Every cell and every name.
            inside: Cells whose centre lies in the image, not in its padding.
            scores: Pseudo-label of each name in [0, 1]; 0 where it was not kept.
        """
        rows = [
            self._pool(cosines._replace(embeddings=embeddings[shown]))
            for embeddings, shown in zip(cosines.embeddings, inside, strict=True)
        ]
        return pseudo_label_agreement(torch.stack(rows), scores, absent=self.absent)

    def _pool(self, cosines: Cosines) -> Float[Tensor, "K"]:
        """One image's logits, some names at a time; their cells are made again for gradients."""
        step = max(1, PIECE // len(cosines.embeddings))
        pieces = [cosines._replace(text=text) for text in cosines.text.split(step)]
        pooled: list[Tensor] = [
            checkpoint(self._pool_piece, *piece, use_reentrant=False, preserve_rng_state=False)
            for piece in pieces
        ]
        return torch.cat(pooled)

    def _pool_piece(self, *piece: Tensor) -> Float[Tensor, "k"]:
        logits = Cosines(*piece).logits()
        if self.pooling == "top":
            return pool_top(logits, top_k=self.top_k)
        return pool_log_sum_exp(logits, sharpness=self.sharpness)
