"""The command line: Lightning's four verbs, and the small commands around them."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, auto_cli

from gridclip.errors import InputError

VERBS = ("fit", "validate", "test", "predict")

# Where each small command is. Only the one that is called is imported: torch takes seconds.
COMMANDS: dict[str, str | dict[str, str]] = {
    "data": {"mini": "gridclip.data.mini:make_mini"},
    "clip": {"train": "gridclip.clip.pretrain:train_mini_clip"},
    "evaluate": "gridclip.evaluation.command:evaluate_command",
    "sweep": {"run": "gridclip.sweeps.runner:run_sweep"},
}

HELP = """usage: gridclip COMMAND ...

  gridclip fit | validate | test | predict --config ROW.yaml    train, evaluate, use a row
  gridclip sweep run SWEEP.yaml                                 run a W&B sweep file here
  gridclip detect --run RUN --names "a cup, a cat" IMAGE...     find things in pictures
  gridclip evaluate --annotations GT.json --detections DT.json  LVIS AP of anyone's boxes
  gridclip data mini DIR                                        draw the mini data set
  gridclip clip train                                           train the mini CLIP again

gridclip COMMAND --help says more.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; an error in what was given ends it with status 2 and one message."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else "--help"
    try:
        if verb in VERBS:
            from gridclip.lightning_cli import run_lightning

            run_lightning(None if argv is None else arguments)
        elif verb == "detect":
            _detect(arguments[1:])
        elif verb in COMMANDS:
            auto_cli(
                _load(COMMANDS[verb]),
                args=arguments[1:],
                prog=f"gridclip {verb}",
                # Where two files are needed each is named; a single one comes without a word.
                as_positional=verb != "evaluate",
                exit_on_error=False,
            )
        elif verb in ("-h", "--help"):
            sys.stdout.write(HELP)
        else:
            raise InputError(f"there is no command {verb!r}", fix="see gridclip --help")
    except (InputError, ArgumentError, ValueError) as error:
        told = _told(error)
        if told is None:
            raise
        sys.stderr.write(f"error: {told}\n")
        sys.exit(2)


def _told(error: BaseException | None) -> BaseException | None:
    """What was wrong with the input, which jsonargparse may have wrapped in a ValueError."""
    while error is not None and not isinstance(error, InputError | ArgumentError):
        error = error.__cause__ or error.__context__
    return error


def _detect(arguments: list[str]) -> None:
    """Any number of pictures at the end, as every shell user expects; auto_cli cannot say that."""
    from gridclip.trained import detect_command

    parser = ArgumentParser(prog="gridclip detect", exit_on_error=False)
    parser.add_function_arguments(detect_command, skip={"images"}, as_positional=False)
    parser.add_argument("images", type=Path, nargs="+", help="Picture files.")
    settings = parser.parse_args(arguments)
    detect_command(**settings.as_dict())


def _load(place: str | dict[str, str]) -> Callable[..., Any] | dict[str, Any]:
    """Import a command, or each of a group."""
    if isinstance(place, dict):
        return {name: _load(inside) for name, inside in place.items()}
    module, _, function = place.partition(":")
    command: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return command
