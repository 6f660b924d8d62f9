"""The command of a trial, word for word as W&B's agent makes it.

tests/parity/test_wandb_agent.py holds it against the installed `wandb`. One thing differs on
purpose: `${interpreter}` is the Python that runs the sweep, where the agent says "python".
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ENVIRONMENT_MACRO = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def expand_command(
    command: Sequence[str],
    arguments: Mapping[str, object],
    *,
    program: str | None,
    json_file: Path,
    environment: Mapping[str, str] = os.environ,
) -> tuple[str, ...]:
    """Expand the macros of a command.

    `${envvar:NAME}` expands inside a word too (to NAME where the variable is not set), every other
    macro only where it is the whole word; `${args…}` becomes one word or more for each argument.
    The JSON file is written if the command names it.

    Args:
        command: The words of the sweep file.
        arguments: What the trial sets, by name.
        program: What `${program}` stands for.
        json_file: What `${args_json_file}` stands for.
        environment: Where `${envvar:NAME}` looks.
    """
    macros = _macros(arguments) | {
        "env": ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [program or ""],
        "args_json_file": [str(json_file)],
    }
    words: list[str] = []
    for word in command:
        word = ENVIRONMENT_MACRO.sub(lambda name: environment.get(name[1], name[1]), word)
        if word == "${args_json_file}":
            json_file.write_text(json.dumps(arguments, default=str), encoding="utf-8")
        is_macro = word.startswith("${") and word.endswith("}")
        words += macros.get(word[2:-1], []) if is_macro else [word]
    return tuple(words)


def _macros(arguments: Mapping[str, object]) -> dict[str, list[str]]:
    pairs = [f"{name}={value}" for name, value in arguments.items()]
    return {
        "args": [f"--{pair}" for pair in pairs],
        "args_no_hyphens": pairs,
        "args_no_equals": [
            word for name, value in arguments.items() for word in (f"--{name}", str(value))
        ],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in arguments.items()
            if value is not False
        ],
        "args_json": [json.dumps(arguments, default=str)],
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
    }
