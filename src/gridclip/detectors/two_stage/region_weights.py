"""How much each loss of a two-stage detector counts."""

from dataclasses import dataclass

from gridclip.detectors.weights import Weights


@dataclass(frozen=True, kw_only=True)
class RegionWeights(Weights):
    """Weight of each loss; at zero it is not computed, and what only it would train rests.

    Args:
        text: Regions against names and background; not of vild-image.
        image: Regions against CLIP's view of them; not of vild-text.
        box: Class-agnostic refinement of boxes.
        objectness: Proposals: object or not.
        anchor: Proposals: boxes of anchors.
    """

    text: float = 1.0
    image: float = 0.5
    box: float = 1.0
    objectness: float = 1.0
    anchor: float = 1.0
