"""Vectors of a joint space of images and text: their precision, their length, their width."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gridclip.io.errors import InputError


def precise(values: Tensor) -> Tensor:
    """Returns the values in single precision at least: exponents and losses are not for bf16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unit(vectors: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
    """Returns vectors of unit length, in single precision at least.

    A small temperature magnifies the rounding of whatever it divides. Zeros stay zeros.
    """
    return F.normalize(precise(vectors), dim=-1, eps=1e-6)


def require_same_width(
    width: int,
    text: int,
    *,
    field: str,
    what: str = "embeddings of regions",
    fix: str = "take both from the same CLIP",
) -> None:
    """Refuses embeddings that cannot be compared with text vectors.

    Args:
        width: Width of the embeddings.
        text: Width of the text vectors.
        field: The setting at fault.
        what: Names the embeddings.
        fix: What to do about it.

    Raises:
        InputError: with both widths, if they differ.
    """
    if width != text:
        raise InputError(f"{what} have width {width}, text vectors {text}", field=field, fix=fix)
