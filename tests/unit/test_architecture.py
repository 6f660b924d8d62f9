"""What keeps the code a pleasure to read: small files, small functions, imports to the left."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "gridclip"
FILES = sorted(SOURCE.rglob("*.py"))

# A room imports from its own rank and from those to its left; sweeps stand beside them.
RANKS = ("io", "structures", "ops", "data", "models", "evaluation", "engine", "cli")
MAY_IMPORT = {room: {*RANKS[: rank + 1]} for rank, room in enumerate(RANKS)}
MAY_IMPORT["engine"] |= {"sweeps"}
MAY_IMPORT["cli"] |= {"sweeps"}
MAY_IMPORT["sweeps"] = {"io", "structures", "sweeps"}
MAY_IMPORT["__init__"] = MAY_IMPORT["__main__"] = MAY_IMPORT["cli"]

MODULE = re.compile(r"gridclip(\.[a-z_]\w*)+(?=$|:)")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_rooms(code: str) -> set[str]:
    """Rooms that a module imports from, by statement or by a string that names a module.

    Strings count because `importlib.import_module` takes them, wherever they were written down.
    """
    modules = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gridclip"):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = MODULE.match(node.value)
            modules |= {found.group()} if found else set()
    parts = [module.split(".") for module in modules]
    return {each[1] for each in parts if each[0] == "gridclip" and len(each) > 1}


def forbidden(room: str, code: str) -> set[str]:
    return {other for other in imported_rooms(code) if other not in MAY_IMPORT[room]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_to_the_left_only(path):
    assert forbidden(room_of(path), path.read_text()) == set()


def test_every_entry_of_the_hall_has_a_rank():
    entries = {
        path.stem for path in SOURCE.iterdir() if path.name not in ("__pycache__", "py.typed")
    }
    assert entries == MAY_IMPORT.keys()


@pytest.mark.parametrize(
    ("room", "arrow", "found"),
    [
        ("models", "from gridclip.engine.optimizers import make_optimizer", {"engine"}),
        ("data", "def load():\n    from gridclip.models.base import Detector", {"models"}),
        ("io", "import gridclip.structures", {"structures"}),
        ("io", "from gridclip import structures", {"structures"}),
        ("evaluation", 'importlib.import_module("gridclip.engine.predictor")', {"engine"}),
        ("sweeps", 'REPORT = "gridclip.evaluation.lvis"\nimport_module(REPORT)', {"evaluation"}),
        (
            "ops",
            'COMMANDS = {"detect": "gridclip.engine.detect.command:detect_command"}',
            {"engine"},
        ),
    ],
)
def test_an_arrow_to_the_right_is_seen_however_it_is_written(room, arrow, found):
    assert forbidden(room, arrow) == found


def test_arrows_to_the_left_and_words_in_prose_are_no_fault():
    code = '"""See gridclip.engine."""\nfrom gridclip.ops import boxes\nFORM = "gridclip regions 1"'
    assert forbidden("models", code) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_fit_the_head(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_no_module_is_named_after_nothing():
    assert not {path.stem for path in FILES} & {"utils", "misc", "common", "helpers", "util"}


def test_no_two_files_of_tests_share_a_name():
    """pytest imports them by their names alone, so a second one ends the whole collection."""
    names = [file.name for file in (SOURCE.parents[1] / "tests").rglob("test_*.py")]
    assert sorted(name for name in names if names.count(name) > 1) == []
