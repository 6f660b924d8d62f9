"""A second embedding's say in the score, where names compete."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gridclip.models.dense.grid_head import Projection
from gridclip.models.dense.score_scale import ScoreScale
from gridclip.models.dense.text_folding import Folding
from gridclip.models.encoders.text import TextBank
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.postprocess import Competition, best_logits
from gridclip.structures import Vocabulary

_SHARPNESS = 10.0  # of cosines, before the scale that is fitted: CLIP's are 10 to 100 times


class Voices(NamedTuple):
    """Text vectors for the second embedding."""

    asked: Float[Tensor, "K E"]
    others: Float[Tensor, "R E"]


class SecondOpinion(nn.Module):
    """Joins the shares of names by two embeddings: their geometric mean, made to sum to one.

    ViLD-ensemble (2104.13921) joins two branches by a geometric mean too. The mean of two softmaxes
    is the softmax of the mean of their logits, and so is one product of longer vectors: the search
    for the best pairs stays what it is.

    Deviation: one weight for all names, where ViLD-ensemble has two: the shares are made to sum to
    one again, so that neither base nor novel names lose by what the other weight would do.

    Args:
        align: The 1 × 1 convolution that makes the second embedding, in the space of text.
        text: Names to unit vectors.
        weight: Of the second embedding, in [0, 1].
    """

    def __init__(self, align: nn.Conv2d, text: TextBank, weight: float) -> None:
        super().__init__()
        self.weight, self.scale = weight, ScoreScale()
        self._folding = Folding(align, text)

    def follow(
        self,
        aligned: Float[Tensor, "B N E"],
        text: Float[Tensor, "K E"],
        labels: Int[Tensor, "B N"],
    ) -> None:
        """Fits the scale of its cosines, as `ScoreScale` does that of the logits.

        Args:
            aligned: The second embedding of every cell; unit length.
            text: Unit vectors of the names.
            labels: The name of each cell, a row of the vocabulary; -1 for cells of no object.
        """
        sharp, nothing = aligned.new_tensor(_SHARPNESS), aligned.new_zeros(())
        self.scale.follow(Cosines(aligned.detach(), text, sharp, nothing), labels)

    def projection(self) -> Projection:
        """What makes the second embedding at inference."""
        made, align = self._folding.projection(), self._folding.embed
        return made or Projection(align.weight, align.bias)

    def basis(self) -> Float[Tensor, "D d"] | None:
        """What brings text vectors into the space of the second embedding at inference, if any."""
        return self._folding.basis()

    def voices(self, asked: Vocabulary, reference: Vocabulary | None) -> Voices:
        """Text vectors of the names that are asked for, and of the others that compete."""
        text = self._folding.names(asked).text
        if reference is None:
            return Voices(text, text[:0])
        return Voices(text, self._folding.others(asked, reference))

    def join(
        self, own: Cosines, rivals: Competition, aligned: Float[Tensor, "N E"], voices: Voices
    ) -> tuple[Cosines, Competition]:
        """What `best_pairs` needs to score by both embeddings of one image's cells.

        Objectness stays that of the logits, which have learned from cells of no object.

        Args:
            own: Of the embedding that learns from names.
            rivals: What its names compete with.
            aligned: The second embedding, made with `projection`; unit length.
            voices: Text vectors for it.
        """
        top = best_logits(own)
        if len(rivals.others):
            top = torch.maximum(top, best_logits(own._replace(text=rivals.others)))
        first = (1 - self.weight) * rivals.scale * own.scale
        second = self.weight * self.scale.value * _SHARPNESS
        cells = torch.cat([first * own.embeddings, second * aligned.float()], dim=1)
        one, nothing = torch.ones_like(rivals.scale), torch.zeros_like(rivals.scale)
        return (
            Cosines(cells, torch.cat([own.text, voices.asked], dim=1), one, nothing),
            Competition(torch.cat([rivals.others, voices.others], dim=1), one, top.sigmoid()),
        )
