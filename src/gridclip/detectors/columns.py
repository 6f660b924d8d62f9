"""The concepts of all processes side by side, each string once (DetCLIPv2, section 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gridclip.gathering import gather, gather_strings


class Columns(NamedTuple):
    """What the cells of one process are compared with."""

    text: Float[Tensor, "C D"]  # of every concept that some process has; gradients go to its owner
    own: Int[Tensor, "K"]  # the column of each concept of this process

    @classmethod
    def alone(cls, text: Float[Tensor, "K D"]) -> "Columns":
        """Those of one process, or of several that all have the same concepts."""
        return cls(text, torch.arange(len(text), device=text.device))


def gather_columns(names: Sequence[str], text: Float[Tensor, "K D"]) -> Columns:
    """Bring the concepts of all processes together.

    The concepts of one process' batch are negatives of the pictures of the others. Where several
    have the same string, the first one's vector stands for all.

    Args:
        names: This process' concepts, all distinct.
        text: Their vectors.
    """
    everyones = [name for names in gather_strings(list(names)) for name in names]
    first: dict[str, int] = {}
    for row, name in enumerate(everyones):
        first.setdefault(name, row)
    column = {name: number for number, name in enumerate(first)}
    vectors, _ = gather(text)
    rows = torch.tensor(list(first.values()), device=text.device)
    own = torch.tensor([column[name] for name in names], device=text.device)
    return Columns(vectors[rows], own)
