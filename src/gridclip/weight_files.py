"""Weights in files that torch wrote: read without running code, filled in whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gridclip.errors import InputError


def read_torch(file: str | Path, *, fix: str, field: str | None = None) -> dict[str, Any]:
    """Read a dict that torch saved, onto the CPU.

    Raises:
        InputError: if the file is absent, or no such file.
    """
    try:
        content: dict[str, Any] = torch.load(Path(file), map_location="cpu", weights_only=True)
        content.keys()
    except Exception as error:  # torch.load raises a dozen kinds for a file that is not its own
        raise InputError(f"cannot be read: {error}", file=file, field=field, fix=fix) from error
    return content


def read_state(file: str | Path, *, fix: str, field: str | None = None) -> dict[str, Tensor]:
    """Read a state dict that torch saved: names to tensors; under `model`, if there is such a key.

    Raises:
        InputError: if the file is absent, or anything else.
    """
    content = read_torch(file, fix=fix, field=field)
    state = content.get("model", content)
    if not isinstance(state, dict) or any(
        not isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise InputError("holds other things than tensors", file=file, field=field, fix=fix)
    return state


def fill(
    module: nn.Module, state: Mapping[str, Tensor], file: str | Path, *, field: str, fix: str
) -> None:
    """Load all tensors of a module, which must be there by name and in shape, and no others.

    Raises:
        InputError: with the names that are missing, unexpected or of another shape.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"does not fit: {error}", file=file, field=field, fix=fix) from error
