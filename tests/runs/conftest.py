"""A small mini data set, one short training on it, the command line in this process; a browser."""

import os
import shutil
from pathlib import Path

import pytest
from postgresql_server import new_server
from small_disks import mount, unmount

from gridclip.cli import main
from gridclip.data.synthetic.mini_dataset import make_mini

ROOT = Path(__file__).parents[2]
ROW = ROOT / "experiments" / "mini" / "gridclip.yaml"


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "mini"
    make_mini(folder, seed=0, train_images=48, val_images=12)
    return folder


@pytest.fixture(scope="session")
def short_run(mini_root):
    """Calls `gridclip fit` on the mini row, shortened to a few steps."""

    def fit(run_dir: Path, *overrides: str, steps: int = 6) -> Path:
        main(
            [
                "fit",
                f"--config={ROW}",
                f"--run_dir={run_dir}",
                f"--data.init_args.root={mini_root}",
                "--data.init_args.batch_size=8",
                f"--trainer.max_steps={steps}",
                "--trainer.val_check_interval=3",
                "--trainer.logger=false",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                *overrides,
            ]
        )
        return run_dir

    return fit


@pytest.fixture(scope="session")
def trained(short_run, tmp_path_factory) -> Path:
    return short_run(tmp_path_factory.mktemp("runs") / "trained")


@pytest.fixture(scope="module")
def browser():
    """An installed Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("GRIDCLIP_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if program is None:
        pytest.skip("no Chromium on this machine; install it, or name it by GRIDCLIP_CHROMIUM")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=quiet)
        yield started
        started.close()


@pytest.fixture(scope="module")
def postgresql():
    """A new PostgreSQL server for the tests of a file."""
    yield from new_server()


@pytest.fixture
def small_disk(tmp_path):
    """Makes a disk of so many megabytes."""
    folder = tmp_path / "disk"

    def make(megabytes: int) -> Path:
        if not mount(folder, megabytes):
            pytest.skip("no disk may be mounted here")
        return folder

    yield make
    unmount(folder)
