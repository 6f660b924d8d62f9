"""Shapes in the annotations are enforced here, and only here."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("gridclip", "beartype.beartype")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real photographs and annotations that are not part of the package."""
    folder = Path(os.environ.get("GRIDCLIP_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set GRIDCLIP_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory, monkeypatch):
    """No test reads or fills the caches of the person who runs it, nor logs to their account."""
    monkeypatch.setenv("GRIDCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("GRIDCLIP_RUN_DIR", raising=False)
