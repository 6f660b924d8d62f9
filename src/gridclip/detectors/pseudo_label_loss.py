"""From grid cells to names of a whole picture: learning from images without boxes."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gridclip.errors import InputError
from gridclip.focal import Cosines
from gridclip.losses import pool_log_sum_exp, pool_top, pseudo_label_agreement

Pooling = Literal["top", "log_sum_exp"]

# Cells × names that are held at once: 16 MB of logits, of which a handful of copies live.
PIECE = 2**22


@dataclass(frozen=True, kw_only=True)
class PseudoLabelLoss:
    """How a picture's cells are pooled into one logit a name, and what its labels teach.

    A picture shows a name if some of its cells do (multiple-instance learning); which form GridCLIP
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
        rules = {
            "top_k": self.top_k >= 1,
            "sharpness": self.sharpness > 0,
            "absent": self.absent >= 0,
        }
        for field, right in rules.items():
            if not right:
                raise InputError(
                    f"{getattr(self, field)} is out of range",
                    field=f"pseudo_labels.{field}",
                    fix="give top_k >= 1, sharpness > 0, absent >= 0",
                )

    def loss(
        self, cosines: Cosines, inside: Bool[Tensor, "B N"], scores: Float[Tensor, "B K"]
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy of the pooled logits with the scores (`pseudo_label_agreement`).

        Args:
            cosines: Every cell and every name.
            inside: Cells whose centre lies in the picture, not in its padding.
            scores: Pseudo-label of each name in [0, 1]; 0 where it was not kept.
        """
        rows = [
            self._pool(cosines._replace(embeddings=embeddings[shown]))
            for embeddings, shown in zip(cosines.embeddings, inside, strict=True)
        ]
        return pseudo_label_agreement(torch.stack(rows), scores, absent=self.absent)

    def _pool(self, cosines: Cosines) -> Float[Tensor, "K"]:
        """One picture's logits, some names at a time; their cells are made again for gradients."""
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
