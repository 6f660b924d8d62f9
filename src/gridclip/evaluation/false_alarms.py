"""Which boxes are left when a detector may name few things that are not there.

AP ranks boxes within a category and never asks for one threshold, so a detector that finds every
name in every image loses little by it. Here one score threshold holds for all categories: the one
at which detections of a name that is verified to be absent from an image average a given number.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gridclip.evaluation.detections import DetectionTable
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.io.errors import require_at_least

LIMIT = 0.05  # detections of an absent name in an image, on average


class FalseAlarms(NamedTuple):
    """The threshold for few false alarms, and how many are left.

    A false alarm is a box whose name is verified to be absent from its image: `neg_category_ids` in
    LVIS form, every name without a box in COCO form. A wrong box of a name that is present is none.
    """

    limit: float  # at most so many for each verified-absent pair of an image and a name
    rate: float  # so many are left; nan where no name is verified to be absent from an image
    threshold: float  # boxes of a higher score are left; -inf where all are; nan as above


def find_threshold(truth: GroundTruth, found: DetectionTable, limit: float = LIMIT) -> FalseAlarms:
    """Finds the lowest threshold above which false alarms are few enough.

    It is the smallest t for which the number of false alarms with a score above t, divided by the
    number of verified-absent pairs, is at most the limit. Boxes that share the score t are all left
    out, so ties make the rate smaller than the limit, never larger. The boxes are those that a
    protocol scores: under the standard one at most 300 an image, over all its names, so that false
    alarms beyond them are not counted.

    Args:
        truth: Of the images that were run.
        found: What a protocol scores, in these images.
        limit: False alarms for each verified-absent pair, 0 or more.

    Raises:
        InputError: if the limit is negative.
    """
    require_at_least(0, false_alarms=limit)
    absent, pairs = truth.absences(found.image_ids, found.category_ids)
    if not pairs:
        return FalseAlarms(limit, math.nan, math.nan)
    alarms = found.scores[absent]
    threshold = _above_which(alarms, _most(limit, pairs))
    return FalseAlarms(limit, int((alarms > threshold).sum()) / pairs, threshold)


def _above_which(scores: Float[np.ndarray, "F"], allowed: int) -> float:
    """Returns the smallest number that at most so many scores exceed; -inf if all may."""
    if len(scores) <= allowed:
        return -math.inf
    row = len(scores) - 1 - allowed
    return float(np.partition(scores, row)[row])


def _most(limit: float, pairs: int) -> int:
    """Returns the largest count whose share of the pairs is at most the limit, in floats."""
    count = math.floor(limit * pairs)  # which rounding may have put one off
    return count + 1 if (count + 1) / pairs <= limit else count
