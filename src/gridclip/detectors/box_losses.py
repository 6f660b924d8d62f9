"""What a dense detector learns from boxes, whatever it names them by."""

from torch import Tensor

from gridclip.assign import Assignment
from gridclip.boxes import centreness, distances_from_boxes
from gridclip.losses import box_regression, centreness_agreement
from gridclip.structures import Predictions


def box_losses(
    predictions: Predictions, assigned: Assignment, weight: float, centreness_weight: float
) -> dict[str, Tensor]:
    """`box` and `centreness` of the positive cells, weighted; without those of weight zero.

    As in FCOS (1904.01355, section 3.2), a cell's box counts by how central the cell lies in it.
    """
    positive, boxes = assigned.positive.flatten(), assigned.boxes
    centres = predictions.cells.centres
    truth = centreness(distances_from_boxes(centres.expand(len(boxes), -1, -1), boxes))
    truth = truth.flatten() * positive
    losses = {}
    if weight:
        gap = box_regression(predictions.boxes.flatten(0, 1), boxes.flatten(0, 1), truth)
        losses["box"] = weight * gap
    if centreness_weight:
        gap = centreness_agreement(predictions.centreness.flatten(), truth, positive)
        losses["centreness"] = centreness_weight * gap
    return losses
