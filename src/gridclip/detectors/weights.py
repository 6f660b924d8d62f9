"""How much each loss counts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from gridclip.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of losses by their names.

    Raises:
        InputError: if one is negative or no finite number.
    """

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(
                    f"{value} is no weight", field=f"weights.{name}", fix="give a number >= 0"
                )

    def apply(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weight losses, and leave out those whose weight is zero."""
        weights = asdict(self)
        return {name: weights[name] * loss for name, loss in losses.items() if weights[name]}


@dataclass(frozen=True, kw_only=True)
class LossWeights(Weights):
    """Weight of each loss; at zero it is not computed, nor is the teacher loaded for it.

    Args:
        grid: Grid-level alignment: cells against category text.
        image: Image-level alignment: the picture's embedding against the frozen teacher's.
        box: Generalised IoU of boxes.
        centreness: How central a cell is to its box.
        unboxed: Image-level alignment too, of image-level batches: pictures without boxes.
        pseudo: Pseudo-labels of image-level batches: pooled cells against category text.
        words: Captions of pictures without boxes: phrases against regions (DetCLIPv2).
    """

    grid: float = 1.0
    image: float = 0.1
    box: float = 2.0
    centreness: float = 1.0
    unboxed: float = 0.0
    pseudo: float = 0.0
    words: float = 0.0
