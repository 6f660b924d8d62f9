"""The two protocols of LVIS box AP: which of a detector's boxes are scored.

They differ by points of AP, so the protocol's name travels with every figure.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from gridclip.evaluation.detections import DetectionTable

Protocol = Literal["standard", "fixed"]

BOXES_PER_IMAGE = 300
BOXES_PER_CATEGORY = 10_000

RULES: dict[Protocol, str] = {
    "standard": f"the best {BOXES_PER_IMAGE} boxes of an image over all categories",
    "fixed": f"the best {BOXES_PER_CATEGORY} boxes of a category over all images",
}


def select(found: DetectionTable, protocol: Protocol) -> DetectionTable:
    """The boxes that a protocol scores; of equal scores the earlier ones.

    standard: the best 300 boxes an image over all categories, as LVIS defines it (lvis 0.5.3,
    LVISResults). Boxes of categories that nobody annotated in the image take part in that.
    fixed: the best 10 000 boxes a category over all images, with no cap on an image (Dave et al.,
    arXiv 2102.01066), so that one category's boxes don't push out another's.
    """
    if protocol == "standard":
        return found.take(_best_of_each(found.image_ids, found.scores, BOXES_PER_IMAGE))
    return found.take(_best_of_each(found.category_ids, found.scores, BOXES_PER_CATEGORY))


def _best_of_each(
    groups: Int[np.ndarray, "M"], scores: Float[np.ndarray, "M"], limit: int
) -> Int[np.ndarray, "S"]:
    """Indices of the `limit` highest scores in each group, in their original order."""
    order = np.lexsort((-scores, groups))  # stable: equal scores keep their order
    ordered = groups[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered, side="left")
    return np.sort(order[rank < limit])
