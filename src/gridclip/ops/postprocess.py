"""From predictions of grid cells to detections in pixels of the original image."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from gridclip.io.errors import require_at_least, require_fraction, require_positive
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.nms import hard_nms, soft_nms
from gridclip.structures import Detections, Record


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How many detections leave the detector.

    LVIS counts up to 300 boxes an image at any score, so there is no threshold by default: a
    threshold made for COCO (0.05) would cost the rare categories most.

    Args:
        candidates: Best (cell, category) pairs of an image that enter suppression.
        threshold: Least score of a candidate, in [0, 1].
        nms_iou: Boxes of the same category that overlap more are suppressed.
        limit: Detections that leave, per image.
        pairs: (cell, category) pairs of an image that are scored. Where cells × categories are
            more, only the most promising cells are scored (`promising`), so that the cost of a
            large vocabulary is bounded; the default scores an image of 800 × 1333 exactly with
            up to 3000 categories, those that only compete included.
        suppression: `hard` drops what overlaps a better box of the same category by more than
            `nms_iou`; `soft` lowers its score instead, by the overlap (Gaussian soft-NMS).
        sigma: Of soft suppression: the larger, the milder.
        least: Of soft suppression: a box is dropped when its score has fallen to this.
        score: Of one-stage detectors, how a cell and a name are scored. `independent`: by the
            sigmoid of the name alone. `competing`: by the name's share in a softmax over names,
            times the cell's objectness (`Competition`).
        reference: Where names compete, the names that were trained on compete too, whether they are
            asked for or not, so that a score hardly depends on what else is asked for.
    """

    candidates: int = 2000
    threshold: float = 0.0
    nms_iou: float = 0.6
    limit: int = 300
    pairs: int = 2**26
    suppression: Literal["hard", "soft"] = "hard"
    sigma: float = 0.5
    least: float = 0.001
    score: Literal["independent", "competing"] = "competing"
    reference: bool = True

    def __post_init__(self) -> None:
        require_fraction(threshold=self.threshold, nms_iou=self.nms_iou, least=self.least)
        require_at_least(1, candidates=self.candidates, limit=self.limit, pairs=self.pairs)
        require_positive(sigma=self.sigma)


class Candidates(NamedTuple):
    """The best (cell, category) pairs of one image, before suppression, best first."""

    scores: Float[Tensor, "C"]  # in [0, 1]
    cells: Int[Tensor, "C"]
    labels: Int[Tensor, "C"]  # rows of the vocabulary


def decode(
    scores: Float[Tensor, "N K"],
    boxes: Float[Tensor, "N 4"],
    size: Int[Tensor, "2"],
    record: Record,
    settings: DecodeSettings,
) -> Detections:
    """Returns the best boxes of one image, by category suppressed, in pixels of the original image.

    Args:
        scores: Score in [0, 1] of every category in every cell.
        boxes: xyxy, pixels of the resized image.
        size: Height and width of the resized image, without padding.
        record: Where the image comes from; its height and width set the frame of the answer.
        settings: Limits and thresholds.
    """
    return suppress(top_pairs(scores, settings), boxes, size, record, settings)


def top_pairs(scores: Float[Tensor, "N K"], settings: DecodeSettings) -> Candidates:
    """Returns the best pairs of a matrix of scores in [0, 1], as many as may enter suppression."""
    best, flat = scores.flatten().topk(min(settings.candidates, scores.numel()))
    best, flat = best[best >= settings.threshold], flat[best >= settings.threshold]
    return Candidates(best, flat // scores.shape[1], flat % scores.shape[1])


def suppress(
    found: Candidates,
    boxes: Float[Tensor, "N 4"],
    size: Int[Tensor, "2"],
    record: Record,
    settings: DecodeSettings,
) -> Detections:
    """Suppresses candidates category by category; arguments as in `decode`."""
    height, width = size.tolist()
    kept = clip_boxes_to_image(boxes[found.cells], (height, width))
    if settings.suppression == "soft":
        sigma, least, limit = settings.sigma, settings.least, settings.limit
        order, scores = soft_nms(
            kept, found.scores, found.labels, sigma=sigma, least=least, limit=limit
        )
    else:
        order = hard_nms(kept, found.scores, found.labels, settings.nms_iou)[: settings.limit]
        scores = found.scores[order]
    scale = torch.tensor([record.width / width, record.height / height], device=boxes.device)
    return Detections(kept[order] * scale.repeat(2), scores, found.labels[order])


BLOCK = 2**21
"""Entries (cells × categories) that are held at once: 8 MB."""


class Competition(NamedTuple):
    """What the names of a cell compete with.

    With l the logits of a cell and s the scale, over the set V of the names that are asked for and
    the others: score(k)² = p(k) · o · c, with the share p(k) = exp(s·l_k) / Σ_V exp(s·l), the
    objectness o = max_V sigmoid(l), and the centreness c. The root of a product of three numbers in
    [0, 1] lies in [0, 1]. The logits' bias cancels in p and not in o. The form is our reading;
    two-stage detectors multiply a softmax and an objectness too.

    Which names of V are asked for, and in what order, changes no score. If V grows by names whose
    share in the grown softmax is m, a score is multiplied by √((1 - m) · o'/o), with o ≤ o' ≤ 1:
    by √(1 - m) where no new name is the best of its cell, by more, at most √((1 - m) / o), where
    one is.
    """

    others: Float[Tensor, "R D"]  # vectors of names that compete and are not asked for
    scale: Float[Tensor, ""]  # of the logits in the softmax
    # Of each cell, where the logits are not those that learned what is background.
    objectness: Float[Tensor, "N"] | None = None


def best_pairs(
    cosines: Cosines,
    central: Float[Tensor, "N"],
    settings: DecodeSettings,
    competition: Competition | None = None,
) -> Candidates:
    """Returns the best pairs of one image, best first; all pairs of the given cells take part.

    Args:
        cosines: Every cell (N × D) and every category.
        central: Centreness of each cell, in [0, 1].
        settings: How many pairs, and the least score.
        competition: What categories compete with; None: each is scored by itself.
    """
    cosines = _sharpened(cosines, competition)
    highest, scoring = _survey(cosines, central, competition)
    count, names = settings.candidates, len(cosines.text)
    best, cells = scoring.scores_(highest[:, None])[:, 0].topk(min(count, len(central)))
    # Below the last maximum by a rounding error, since blocks of another shape round otherwise.
    known, least = len(best) == count, best[-1] * (1 - 1e-5 - 1e-6 * cosines.scale.abs())
    found = Candidates(best[:0], cells[:0], cells[:0])
    for block in cells.split(max(1, BLOCK // names)):
        logits = _logits(cosines._replace(embeddings=cosines.embeddings[block]))
        scores = scoring.of(block).scores_(logits)
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


def all_scores(
    cosines: Cosines, central: Float[Tensor, "N"], competition: Competition | None = None
) -> Float[Tensor, "N K"]:
    """Returns the score of every category in every cell, for a small number of cells."""
    cosines = _sharpened(cosines, competition)
    _, scoring = _survey(cosines, central, competition)
    return scoring.scores_(_logits(cosines))


def promising(prototypes: Cosines, central: Float[Tensor, "N"], count: int) -> Int[Tensor, "count"]:
    """Returns the cells that score highest with prototypes of the vocabulary: an approximation.

    The cells of a category that is far from all prototypes are kept all the same where they beat
    the background, which learns to be far from every category. Cells are ranked by objectness and
    centreness, whether names compete or not.

    Args:
        prototypes: Every cell (N × D), and vectors that represent the categories (`group`).
        central: Centreness of each cell, in [0, 1].
        count: How many cells.
    """
    highest, scoring = _survey(prototypes, central, None)
    best = scoring.scores_(highest[:, None])[:, 0]
    return best.topk(min(count, len(best))).indices


def best_logits(cosines: Cosines) -> Float[Tensor, "N"]:
    """Returns the logit of each cell's best category, without the matrix of both."""
    return _extent(cosines, summed=False)[0]


def log_totals(cosines: Cosines) -> Float[Tensor, "N"]:
    """Returns the log-sum-exp of each cell's logits, without the matrix of cells and names."""
    return _extent(cosines, summed=True)[1]


def group(
    vectors: Float[Tensor, "K D"], groups: int = 128, rounds: int = 8
) -> Float[Tensor, "G D"]:
    """Returns unit vectors that represent many: the means of groups (spherical k-means).

    It starts from vectors at even steps, so the same vectors give the same groups.
    """
    count = len(vectors)
    if count <= groups:
        return vectors
    middles = vectors[torch.arange(groups, device=vectors.device) * count // groups]
    for _ in range(rounds):
        nearest = (vectors @ middles.mT).argmax(1)
        sums = torch.zeros_like(middles).index_add_(0, nearest, vectors)
        # A group that lost all its members stays as it was.
        sums = torch.where(sums.any(1, keepdim=True), sums, middles)
        middles = torch.nn.functional.normalize(sums, dim=1)
    return middles


def _merge(some: Candidates, others: Candidates, count: int) -> Candidates:
    """Returns the `count` best of both, best first."""
    scores, cells, labels = (torch.cat(both) for both in zip(some, others, strict=True))
    scores, order = scores.topk(min(count, len(scores)))
    return Candidates(scores, cells[order], labels[order])


class _Scoring(NamedTuple):
    """What makes scores of the logits of cells."""

    factor: Float[Tensor, "n"]  # centreness; where names compete, times objectness
    total: Float[Tensor, "n"] | None  # where names compete: log-sum-exp of all logits that do

    def of(self, rows: Int[Tensor, "m"]) -> "_Scoring":
        """Those of some cells."""
        return _Scoring(self.factor[rows], None if self.total is None else self.total[rows])

    def scores_(self, logits: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
        """Returns scores in the memory of the logits."""
        if self.total is None:
            shares = logits.sigmoid_()
        else:
            shares = logits.sub_(self.total[:, None]).exp_().clamp_(max=1)
        return shares.mul_(self.factor[:, None]).sqrt_()


def _sharpened(cosines: Cosines, competition: Competition | None) -> Cosines:
    """Returns what makes the logits times the scale of the softmax, if there is one."""
    if competition is None:
        return cosines
    scale, bias = (part * competition.scale for part in (cosines.scale, cosines.bias))
    return cosines._replace(scale=scale, bias=bias)


def _survey(
    sharpened: Cosines, central: Float[Tensor, "N"], competition: Competition | None
) -> tuple[Float[Tensor, "N"], _Scoring]:
    """Returns the sharpened logit of each cell's best category, and what makes scores."""
    highest, total = _extent(sharpened, competition is not None)
    if competition is None:
        return highest, _Scoring(central, None)
    top = highest
    if len(competition.others):
        theirs, their_total = _extent(sharpened._replace(text=competition.others), summed=True)
        top, total = torch.maximum(top, theirs), torch.logaddexp(total, their_total)
    objectness = competition.objectness
    if objectness is None:
        objectness = (top / competition.scale).sigmoid()
    return highest, _Scoring(central * objectness, total)


def _extent(cosines: Cosines, summed: bool) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Returns each cell's highest logit, and if asked the log-sum-exp of its logits, in blocks."""
    step = max(1, BLOCK // max(1, len(cosines.embeddings)))
    pieces = cosines.text.split(step)
    highest = cosines.embeddings.new_full((len(cosines.embeddings),), -torch.inf)
    total = highest.clone()
    for piece in pieces:
        logits = _logits(cosines._replace(text=piece))
        top = logits.amax(1)
        highest = torch.maximum(highest, top)
        if summed:
            sums = logits.sub_(top[:, None]).exp_().sum(1)
            total = torch.logaddexp(total, sums.log_().add_(top))
    return highest, total


def _logits(cosines: Cosines) -> Float[Tensor, "N K"]:
    """Returns the products, in one matrix: `Cosines.logits` makes three."""
    return (cosines.embeddings @ (cosines.scale * cosines.text).mT).add_(cosines.bias)
