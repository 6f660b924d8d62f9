"""What keeps the code a pleasure to read: small files, small functions, imports downwards."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "gridclip"
FILES = sorted(SOURCE.rglob("*.py"))

# A module may import from its own layer and from those before it.
LAYERS = [
    {
        "errors",
        "structures",
        "pixels",
        "boxes",
        "caches",
        "records",
        "lists",
        "names",
        "gathering",
        "weight_files",
    },
    {
        "assign",
        "focal",
        "losses",
        "suppression",
        "decode",
        "candidates",
        "data",
        "clip",
        "networks",
        "evaluation",
        "sweeps",
    },
    {"detectors", "optimizers"},
    {"system", "inputs"},
    {"runs", "dashboards"},
    {"trained", "lightning_cli"},
    {"proposing", "classifying"},
    {"cli", "__main__", "__init__"},
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def _layer(path: Path) -> int:
    return DEPTH[path.relative_to(SOURCE).with_suffix("").parts[0]]


def _imported(path: Path) -> set[str]:
    """First part, below gridclip, of everything a module imports from this package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gridclip"):
            parts = (node.module or "").split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_downwards_only(path):
    upwards = {name for name in _imported(path) if DEPTH.get(name, 99) > _layer(path)}
    assert upwards == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_fit_the_head(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_no_module_is_named_after_nothing():
    assert not {path.stem for path in FILES} & {"utils", "misc", "common", "helpers", "util"}
