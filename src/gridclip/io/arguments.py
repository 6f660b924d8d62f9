"""How a word of a command line, and a row, is read: as YAML, or as Python writes lists and None.

W&B's agent, and ours, write a swept value as Python's `str` does: null becomes None, a list of
texts `['a', "it's"]`. To YAML the first would be a text, and a backslash in the second two.
"""

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import set_loader

from gridclip.io.errors import InputError
from gridclip.io.yaml_text import refuse_bombs

PARSER_MODE = "gridclip"  # of parsers that read their words so
CLASSES = ("--data.", "--model.detector.")  # options of classes that only a row names
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z"
    r"|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
NULL, NUMBER, DATE = (f"tag:yaml.org,2002:{name}" for name in ("null", "float", "timestamp"))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without dates, in which 1e-3 is a number and None is null."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, form) for tag, form in forms if tag not in (NUMBER, DATE)]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(NULL, re.compile(r"None\Z"), ["N"])
_Loader.add_implicit_resolver(NUMBER, FLOAT, list("-+0123456789."))


def read_value(text: str) -> object:
    """Returns what a word, or the text of a file, stands for; the type of a setting may say else.

    Raises:
        yaml.YAMLError: if it is neither, or stands for too much.
    """
    if text.strip()[:1] in ("[", "{") and "\n" not in text:
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if isinstance(value, list | dict):
            return value
    refuse_bombs(text)
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, OverflowError) as error:  # a number of 5000 digits
        raise yaml.YAMLError(str(error)) from error


set_loader(PARSER_MODE, read_value, exceptions=(yaml.YAMLError,))


def refuse_replaced(words: Sequence[str]) -> None:
    """Refuses an option that a later --config replaces in silence: the last word counts.

    Args:
        words: Of a command line, as `--name value` or `--name=value`.

    Raises:
        InputError: naming the option, the file and the order.
    """
    unknown: tuple[str, ...] = CLASSES  # before the first row
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in ("--config", "-c"):
            continue
        file = value if equals else "".join(words[place + 1 : place + 2])
        for option in (earlier.partition("=")[0] for earlier in words[:place]):
            if option.startswith(unknown) or _sets(file, option.removeprefix("--")):
                problem = f"{option} stands before --config {file}, which would replace it"
                raise InputError(problem, fix="write --config first", field=option)
        unknown = ()


def _sets(file: str, option: str) -> bool:
    """Returns whether a row sets an option, or a part of it; one that cannot be read sets none."""
    try:
        content = read_value(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, InputError):
        return False
    for key in option.split("."):
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True
