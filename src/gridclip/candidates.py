"""The best (cell, name) pairs of an image, without the matrix of cells by names.

A score is the geometric mean of a name's probability and the cell's centreness. The C best pairs
lie in the C cells whose own best name scores highest: were a pair's cell not among them, C other
cells would each hold a better one. So all cells are asked for their maximum only, a block of names
at a time, and just those C for their names. That is exact, and memory does not grow with the
vocabulary. Time does, so from some size on `promising` cells alone are asked.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gridclip.decode import Candidates, DecodeSettings
from gridclip.focal import Cosines

BLOCK = 2**21
"""Entries (cells × names) that are held at once: 8 MB."""


def best_pairs(
    cosines: Cosines, central: Float[Tensor, "N"], settings: DecodeSettings
) -> Candidates:
    """The best pairs of one image, best first; all pairs of the given cells compete.

    Args:
        cosines: Every cell (N × D) and every name.
        central: Centreness of each cell, in [0, 1].
        settings: How many pairs, and the least score.
    """
    count, names = settings.candidates, len(cosines.text)
    best, cells = _scores_(_highest(cosines), central).topk(min(count, len(central)))
    # Below the last maximum by a rounding error, since blocks of another shape round otherwise.
    known, least = len(best) == count, best[-1] * (1 - 1e-5)
    found = Candidates(best[:0], cells[:0], cells[:0])
    for block in cells.split(max(1, BLOCK // names)):
        logits = _logits(cosines._replace(embeddings=cosines.embeddings[block]))
        scores = _scores_(logits, central[block][:, None])
        if known:
            rows, labels = (scores >= least).nonzero(as_tuple=True)
        else:
            flat = scores.flatten().topk(min(count, scores.numel())).indices
            rows, labels = flat // names, flat % names
        found = _merge(found, Candidates(scores[rows, labels], block[rows], labels), count)
        if len(found.scores) == count:
            known, least = True, found.scores[-1]
    high = found.scores >= settings.threshold
    return Candidates(*(part[high] for part in found))


def all_scores(cosines: Cosines, central: Float[Tensor, "N"]) -> Float[Tensor, "N K"]:
    """Score of every name in every cell; of few cells, as it is all held."""
    return _scores_(_logits(cosines), central[:, None])


def promising(prototypes: Cosines, central: Float[Tensor, "N"], count: int) -> Int[Tensor, "count"]:
    """The cells that score highest with what stands for the vocabulary: an approximation.

    The cells of a name that is far from all prototypes are kept all the same where they beat the
    background, which learns to be far from every name.

    Args:
        prototypes: Every cell (N × D), and what stands for the names (`group`).
        central: Centreness of each cell, in [0, 1].
        count: How many cells.
    """
    best = _scores_(_highest(prototypes), central)
    return best.topk(min(count, len(best))).indices


def group(
    vectors: Float[Tensor, "K D"], groups: int = 128, rounds: int = 8
) -> Float[Tensor, "G D"]:
    """Unit vectors that stand for many: the middles of groups (k-means on the sphere).

    It starts from vectors at even steps, so the same vectors give the same groups.
    """
    count = len(vectors)
    if count <= groups:
        return vectors
    middles = vectors[torch.arange(groups, device=vectors.device) * count // groups]
    for _ in range(rounds):
        nearest = (vectors @ middles.mT).argmax(1)
        sums = torch.zeros_like(middles).index_add_(0, nearest, vectors)
        # A group that lost all its members stays where it was.
        sums = torch.where(sums.any(1, keepdim=True), sums, middles)
        middles = torch.nn.functional.normalize(sums, dim=1)
    return middles


def _merge(some: Candidates, others: Candidates, count: int) -> Candidates:
    """The `count` best of both, best first."""
    scores, cells, labels = (torch.cat(both) for both in zip(some, others, strict=True))
    scores, order = scores.topk(min(count, len(scores)))
    return Candidates(scores, cells[order], labels[order])


def _highest(cosines: Cosines) -> Float[Tensor, "N"]:
    """Logit of each cell's best name."""
    step = max(1, BLOCK // max(1, len(cosines.embeddings)))
    pieces = [cosines._replace(text=text) for text in cosines.text.split(step)]
    return torch.stack([_logits(piece).amax(1) for piece in pieces]).amax(0)


def _logits(cosines: Cosines) -> Float[Tensor, "N K"]:
    """Multiply out, and no more: `Cosines.logits` makes three matrices."""
    return (cosines.embeddings @ (cosines.scale * cosines.text).mT).add_(cosines.bias)


def _scores_(logits: Tensor, central: Tensor) -> Tensor:
    """Of each entry, or of whole rows where centreness is a column; takes the logits' room."""
    return logits.sigmoid_().mul_(central).sqrt_()
