"""The recipe of a run, its config.yaml, and what is built of it without the files of its past."""

import inspect
import pkgutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser

from gridclip.io.arguments import PARSER_MODE
from gridclip.io.errors import InputError
from gridclip.io.trust import importing_known_code, refuse_functions
from gridclip.io.yaml_text import read_yaml
from gridclip.models.base import Detector


def without_past(model: dict[str, Any], file: Path | None = None) -> dict[str, Any]:
    """A recipe without the files that training and evaluation took: they may be gone.

    Raises:
        InputError: if the class of its detector is not there.
    """
    detector = model["detector"]
    past = _detector_class(str(detector.get("class_path")), file).past_arguments
    given = mapping(detector, "init_args")
    kept = {name: None if name in past else value for name, value in given.items()}
    return model | {"init_from": None, "detector": detector | {"init_args": kept}}


def _detector_class(path: str, file: Path | None) -> type[Detector]:
    try:
        if "." not in path:  # which would import a module of this name
            raise ValueError("it is no full path")
        found = pkgutil.resolve_name(path)
        if not (inspect.isclass(found) and issubclass(found, Detector)):
            raise ValueError("it is no class of a detector")
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is not there: {error}",
            file=file,
            field="model.detector.class_path",
            fix="install the package of that detector, in the version that trained it",
        ) from error
    return found


def read_recipe(file: Path) -> dict[str, Any]:
    """Returns `model` of a recipe, with a detector in it, and `resize`, which may be None."""
    fix = "give the folder of a training"
    if not file.is_file():
        raise InputError("is no recipe of a run: it is not there", file=file, fix=fix)
    recipe = read_yaml(file, fix=fix)
    model, data = (mapping(recipe, part) for part in ("model", "data"))
    if not mapping(model, "detector"):
        raise InputError("is no recipe of a run: it has no model.detector", file=file, fix=fix)
    return {"model": model, "resize": mapping(data, "init_args").get("val_resize")}


def mapping(tree: object, key: str) -> dict[str, Any]:
    """Returns the mapping under a key; an empty one if there is none."""
    found = tree.get(key) if isinstance(tree, dict) else None
    return found if isinstance(found, dict) else {}


class Builder(NamedTuple):
    """Builds objects from the parts of a recipe that describe them."""

    file: Path
    trust: bool

    def __call__(self, kind: type, settings: dict[str, Any], name: str) -> Any:  # noqa: ANN401
        """Returns an object of this kind; `name` is for messages.

        Raises:
            InputError: if the settings do not describe one, or need trust.
        """
        return self._build(kind, settings, name, of_a_subclass=False)

    def one_of(self, kind: type, settings: dict[str, Any], name: str) -> Any:  # noqa: ANN401
        """Returns an object of the subclass of this kind that the settings name (`class_path`).

        Raises:
            InputError: if the settings do not describe one, or need trust.
        """
        return self._build(kind, settings, name, of_a_subclass=True)

    def _build(self, kind: type, settings: dict[str, Any], name: str, of_a_subclass: bool) -> Any:  # noqa: ANN401
        parser = LightningArgumentParser(exit_on_error=False, parser_mode=PARSER_MODE)
        with importing_known_code(trust=self.trust, files=[self.file]), torch.random.fork_rng():
            if of_a_subclass:
                parser.add_subclass_arguments(kind, name)
            else:
                parser.add_class_arguments(kind, name)
            try:
                parsed = parser.parse_object({name: settings})
            except ArgumentError as error:
                fix = "give the run of a training with this version of gridclip"
                raise InputError(str(error), file=self.file, field=name, fix=fix) from error
            if not self.trust:
                refuse_functions(parsed, file=self.file)
            return parser.instantiate_classes(parsed)[name]
