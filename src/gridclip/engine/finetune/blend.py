"""Weights between two trainings: θ0 + α (θ1 − θ0)."""

from collections.abc import Mapping
from typing import Any

import torch

Weights = Mapping[str, torch.Tensor]


def blended(before: Weights, after: Weights, share: float) -> dict[str, torch.Tensor]:
    """Returns weights a share of the way from one state of a network to another (2109.01903).

    Args:
        before: Of the run that was fine-tuned; what it lacks, shifts of names' vectors, is zero.
        after: Of the same network, fine-tuned.
        share: Of the new weights, in [0, 1]; whole numbers, such as counters, are the new ones.
    """
    return {
        name: torch.lerp(before.get(name, torch.zeros_like(value)), value, share)
        if value.is_floating_point()
        else value
        for name, value in after.items()
    }


def blended_checkpoint(
    before: Mapping[str, Any], after: Mapping[str, Any], share: float
) -> dict[str, Any]:
    """Returns the checkpoint of a fine-tuned run with blended weights."""
    return {**after, "state_dict": blended(before["state_dict"], after["state_dict"], share)}
