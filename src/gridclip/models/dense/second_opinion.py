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
from gridclip.ops.postprocess import Competition, best_logits, log_totals
from gridclip.structures import Vocabulary

_SHARPNESS = 10.0  # of cosines, before the scale that is fitted: CLIP's are 10 to 100 times


class Voices(NamedTuple):
    """Text vectors for the second embedding, and its weight in the share of each name.

    Weights are None where they are the same for all names.
    """

    asked: Float[Tensor, "K E"]
    others: Float[Tensor, "R E"]
    asked_weights: Float[Tensor, "K"] | None = None
    other_weights: Float[Tensor, "R"] | None = None


class SecondOpinion(nn.Module):
    """Joins the shares of names by two embeddings: their geometric mean, made to sum to one.

    ViLD-ensemble (2104.13921) joins two branches by a geometric mean too. The mean of two softmaxes
    is the softmax of the mean of their logits, and so is one product of longer vectors: the search
    for the best pairs stays what it is.

    Names that no training box showed may have a weight of their own (ViLD-ensemble's way): the
    first embedding has learned of them only what they are not. The logarithms of the two softmaxes
    are joined then, which takes one more pass over the names for their sums.

    Deviation: the joined shares are made to sum to one again, ViLD-ensemble's are not.

    Args:
        align: The 1 × 1 convolution that makes the second embedding, in the space of text.
        text: Names to unit vectors.
        weight: Of the second embedding, in [0, 1].
        novel_weight: The same, for names that no training box showed; None: as for all.
    """

    def __init__(
        self, align: nn.Conv2d, text: TextBank, weight: float, novel_weight: float | None = None
    ) -> None:
        super().__init__()
        self.weight, self.novel_weight, self.scale = weight, novel_weight, ScoreScale()
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

    def voices(
        self, asked: Vocabulary, reference: Vocabulary | None, trained: Vocabulary | None
    ) -> Voices:
        """Text vectors of the names that are asked for, and of the others that compete.

        Args:
            asked: The names that are asked for.
            reference: The others, if there are any: names that training boxes showed.
            trained: Names that training boxes showed; None before any training.
        """
        text = self._folding.names(asked).text
        others = text[:0] if reference is None else self._folding.others(asked, reference)
        if self.novel_weight is None or trained is None:
            return Voices(text, others)
        known = {*trained.names}
        weights = [self.weight if name in known else self.novel_weight for name in asked.names]
        known_weights = others.new_full((len(others),), self.weight)
        return Voices(text, others, text.new_tensor(weights), known_weights)

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
        first, second = rivals.scale * own.scale, self.scale.value * _SHARPNESS
        one, nothing = torch.ones_like(rivals.scale), torch.zeros_like(rivals.scale)
        aligned = aligned.float()
        if voices.asked_weights is None or voices.other_weights is None:
            first, second = (1 - self.weight) * first, self.weight * second
            parts = [first * own.embeddings, second * aligned]
            asked, others = [own.text, voices.asked], [rivals.others, voices.others]
        else:
            ours = Cosines(own.embeddings, torch.cat([own.text, rivals.others]), first, nothing)
            text = torch.cat([voices.asked, voices.others])
            sums = [log_totals(ours), log_totals(Cosines(aligned, text, second, nothing))]
            parts = [first * own.embeddings, second * aligned, -torch.stack(sums, dim=1)]
            asked = _weighed(own.text, voices.asked, voices.asked_weights)
            others = _weighed(rivals.others, voices.others, voices.other_weights)
        return (
            Cosines(torch.cat(parts, dim=1), torch.cat(asked, dim=1), one, nothing),
            Competition(torch.cat(others, dim=1), one, top.sigmoid()),
        )


def _weighed(
    first: Float[Tensor, "K D"], second: Float[Tensor, "K E"], weights: Float[Tensor, "K"]
) -> list[Float[Tensor, "K _"]]:
    """Text vectors by which cells with both embeddings and their sums give weighted logarithms."""
    both = torch.stack([1 - weights, weights], dim=1)
    return [both[:, :1] * first, both[:, 1:] * second, both]
