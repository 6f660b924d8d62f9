"""Which code a configuration may name: classes of a few packages, and others only if it is trusted.

A configuration names classes, and a name that is looked up imports a module, which runs it. The
config.yaml of a stranger's run is no exception. So parsers import nothing but what KNOWN lists,
wherever a name stands and whatever it is called through: jsonargparse compares the place where an
object was defined too, so `torch.nn.modules.os.system` is no way round. Functions are refused even
there, because one that is called with arguments of a stranger's choice may do anything.
"""

import inspect
import logging
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse._common import ImportDenied, parsing_settings  # there is no public way back

from gridclip.io.errors import InputError
from gridclip.io.yaml_text import TooMuchError

# Lightning defines some of its plugins and strategies in its part named fabric.
_PARTS = {
    "gridclip": ("",),
    "torch": (".nn", ".optim"),
    "torchvision": (".ops", ".transforms"),
    "timm": (".layers", ".models", ".optim", ".scheduler"),
    "lightning.pytorch": (
        ".accelerators",
        ".callbacks",
        ".loggers",
        ".plugins",
        ".profilers",
        ".strategies",
    ),
    "lightning.fabric": (".accelerators", ".plugins", ".strategies"),
}
KNOWN = tuple(package + part for package, parts in _PARTS.items() for part in parts)
"""Packages whose classes a configuration may name, with all modules in them."""

FLAG = "--trust"
HELP = "Import also code from elsewhere that a configuration names, which then runs."
_FIX = (
    "if you trust whoever wrote this, say --trust (trust=True in Python): it imports {module}, "
    "which can do whatever you can"
)
_OTHERS = "code from outside gridclip, torch, torchvision, timm and lightning"

_CODE = (inspect.isroutine, inspect.isclass, inspect.ismodule)

logger = logging.getLogger(__name__)


def is_known(name: str) -> bool:
    """Returns whether a dotted name lies in a package of KNOWN; one without a dot imports none."""
    return "." not in name or any(name == each or name.startswith(f"{each}.") for each in KNOWN)


def refuse_foreign_classes(
    configuration: object, *, trust: bool, file: Path | None = None, field: str = ""
) -> None:
    """Refuses a configuration that names a class from elsewhere, before anything is imported.

    Args:
        configuration: Mappings and lists, as YAML has them or as they were parsed.
        trust: Whether such classes are taken, and only said aloud.
        file: Where it was read, for the message.
        field: The key that it stands under, for the message.

    Raises:
        InputError: naming the first such class, and what would be imported.
    """
    for place, name in _class_paths(configuration, field):
        if is_known(name):
            continue
        if not trust:
            raise foreign(name, file=file, field=place)
        logger.warning("%s imports %s, which is trusted", place, name)


def foreign(name: str, *, file: Path | None = None, field: str | None = None) -> InputError:
    """Returns the error for a name from elsewhere."""
    fix = _FIX.format(module=name.rpartition(".")[0] or name)
    return InputError(f"names {name}, which is {_OTHERS}", fix=fix, file=file, field=field)


@contextmanager
def importing_known_code(*, trust: bool, files: Sequence[Path] = ()) -> Iterator[None]:
    """Lets parsers import and build nothing from elsewhere, unless it is trusted.

    Args:
        trust: Whether anything may be imported.
        files: Configurations that are parsed, for the message.

    Raises:
        InputError: if a parser meets a name from elsewhere, at whatever place, or a text that
            stands for too much.
    """
    before = dict(parsing_settings)
    # A mapping with a class_path where anything may stand is a mapping, and is not built.
    set_parsing_settings(instantiate_subclass_spec_in_any=False)
    if not trust:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(KNOWN))
    try:
        yield
    except Exception as error:
        refusal = _refusal(error, files)
        if refusal is None:
            raise
        raise refusal from error
    finally:
        parsing_settings.update(before)


def refuse_functions(configuration: object, *, file: Path | None = None) -> None:
    """Refuses a parsed configuration that names a function, where a class or a value belongs.

    Args:
        configuration: What a parser returned: what it names is imported, and nothing is built yet.
        file: Where it was read, for the message.

    Raises:
        InputError: naming the first function, or class that is not to be built.
    """
    for place, value in _leaves(configuration, ""):
        named = value
        if isinstance(value, str) and place.rpartition(".")[2] == "class_path":
            named = pkgutil.resolve_name(value)
            if inspect.isclass(named):
                continue
        if isinstance(named, partial) or any(test(named) for test in _CODE):
            raise InputError(
                f"names {getattr(named, '__name__', named)}, which is no class",
                fix="name a class; or, if you trust whoever wrote this, say --trust "
                "(trust=True in Python): it calls that function",
                file=file,
                field=place,
            )


def _class_paths(tree: object, place: str) -> Iterator[tuple[str, str]]:
    for where, value in _leaves(tree, place):
        if isinstance(value, str) and where.rpartition(".")[2] == "class_path":
            yield where, value


def _leaves(tree: object, place: str) -> Iterator[tuple[str, Any]]:
    """Yields what is no mapping or list, with the keys that lead to it."""
    branches: list[tuple[str, Any]]
    if isinstance(tree, Namespace):
        branches = [(key, value) for key, value in vars(tree).items()]
    elif isinstance(tree, Mapping):
        branches = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        branches = [(str(row), value) for row, value in enumerate(tree)]
    else:
        yield place, tree
        return
    for key, value in branches:
        yield from _leaves(value, f"{place}.{key}" if place else key)


def _refusal(error: BaseException, files: Sequence[Path]) -> InputError | None:
    """Returns what to say of an error that a parser was led to; None if it has another cause."""
    place = re.search(r'Parser key "([^"]+)"', str(error))
    found: InputError | None = None
    cause: BaseException | None = error
    while cause is not None:  # the first cause is the last: a parser goes on to try other ways
        named = re.search(r"'([\w.]+)'", str(cause)) if isinstance(cause, ImportDenied) else None
        if named:
            file = next((each for each in files if named[1] in _text(each)), None)
            field = place[1] if place else None
            if named[1].endswith((".yaml", ".yml", ".json")):
                problem = f"{named[1]} is no file of settings that is there, and no class"
                found = InputError(problem, fix="write its settings here", file=file, field=field)
            else:
                found = foreign(named[1], file=file, field=field)
        elif isinstance(cause, TooMuchError):
            fix = "write it with fewer levels and aliases"
            found = InputError(str(cause), fix=fix, file=files[0] if len(files) == 1 else None)
        cause = cause.__cause__ or cause.__context__
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
