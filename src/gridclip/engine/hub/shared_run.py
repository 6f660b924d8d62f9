"""What of a run is shared: a recipe without its author's paths, weights in safetensors, a card."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml

from gridclip.engine.hub.model_card import model_card
from gridclip.engine.lightning_module import FINGERPRINT, TRAINED_ON, read_checkpoint
from gridclip.engine.recipe import read_recipe, without_past
from gridclip.io.errors import InputError
from gridclip.io.files import write_text
from gridclip.io.json_table import read_json

WEIGHTS = "model.safetensors"
FILES = ("config.yaml", WEIGHTS, "metrics.json", "README.md", "files/*")
"""All that a shared run has."""

INSIDE = "run://"
"""What a recipe calls files beside it by: run://files/vectors.npy."""


def write_shared(run: Path, folder: Path, *, repo: str, licence: str) -> None:
    """Writes a finished run as it is shared.

    Args:
        run: Its folder.
        folder: An empty one.
        repo: What it will be called: user/name.
        licence: For the card.

    Raises:
        InputError: if it is no finished run.
    """
    metrics = run / "metrics.json"
    if not metrics.is_file():
        fix = "give a run that is finished: gridclip fit writes metrics.json last"
        raise InputError("is not there, so nothing says how good it is", file=metrics, fix=fix)
    figures: Any = read_json(metrics)
    if not isinstance(figures, dict):
        raise InputError("holds no figures", file=metrics, fix="evaluate the run again")
    recipe = read_recipe(run / "config.yaml")
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    model = with_files(without_past(recipe["model"], run / "config.yaml"), _copier(folder))
    shared = {"model": model, "data": {"init_args": {"val_resize": recipe["resize"]}}}
    write_text(folder / "config.yaml", yaml.safe_dump(shared, sort_keys=False, allow_unicode=True))
    _write_weights(checkpoint, folder / WEIGHTS)
    shutil.copy(metrics, folder / "metrics.json")
    card = model_card(
        repo, model["detector"], figures, checkpoint.get(TRAINED_ON), checkpoint, licence
    )
    write_text(folder / "README.md", card)


def with_files(tree: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - as YAML has it
    """Returns a recipe whose texts are changed, wherever they stand as values."""
    if isinstance(tree, dict):
        return {key: with_files(value, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_files(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree


def beside(recipe: Path) -> Callable[[str], str]:
    """Returns what turns run://files/x into the path of the file beside a recipe.

    It raises an InputError for one that leads elsewhere.
    """

    def change(value: str) -> str:
        if not value.startswith(INSIDE):
            return value
        inside = PurePosixPath(value.removeprefix(INSIDE))
        if inside.is_absolute() or ".." in inside.parts:
            fix = "name a file of the run's own folder"
            raise InputError(f"{value} leads out of the run", file=recipe, fix=fix)
        return str(recipe.parent / inside)

    return change


def read_shared_weights(file: Path) -> dict[str, Any]:
    """Returns what a checkpoint would hold, from the weights of a shared run.

    Raises:
        InputError: if the file is no such thing.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as content:
            said = content.metadata() or {}
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        names = json.loads(said.get(TRAINED_ON, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        fix = "fetch it again, or ask whoever made it"
        raise InputError(f"cannot be read: {error}", file=file, fix=fix) from error
    return {"state_dict": state, FINGERPRINT: said.get(FINGERPRINT, ""), TRAINED_ON: names}


def _write_weights(checkpoint: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    said = {
        FINGERPRINT: str(checkpoint.get(FINGERPRINT, "")),
        TRAINED_ON: json.dumps(checkpoint.get(TRAINED_ON)),
    }
    # Each on its own: tensors that share memory are refused.
    save_file({name: each.contiguous().clone() for name, each in state.items()}, file, said)


def _copier(folder: Path) -> Callable[[str], str]:
    """Returns what copies a file that a recipe names, and says what it is called then."""
    copied: dict[str, str] = {}

    def change(value: str) -> str:
        if not _is_file(value):
            return value
        if value not in copied:
            name = Path(value).name
            if any(other.endswith(f"/{name}") for other in copied.values()):
                name = f"{len(copied)}-{name}"
            (folder / "files").mkdir(exist_ok=True)
            shutil.copy(value, folder / "files" / name)
            copied[value] = f"{INSIDE}files/{name}"
        return copied[value]

    return change


def _is_file(value: str) -> bool:
    """Whether a text is the path of a file that is there; a bare word, as `mini`, is none."""
    try:
        return bool(Path(value).suffix) and Path(value).is_file()
    except (OSError, ValueError):
        return False
