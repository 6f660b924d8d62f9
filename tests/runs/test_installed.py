"""The built package outside the checkout: what a user has who never cloned the repository.

Wheel and source are built as for publication, the wheel once more from the unpacked source. It is
installed into an environment of its own, which finds all other packages where they are.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*command, cwd):
    """What a command prints, outside the checkout and without its PYTHONPATH."""
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    environment |= {"WANDB_MODE": "disabled", "GRIDCLIP_CACHE": str(cwd / "cache")}
    ended = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build(source, output):
    """Wheel and source of a tree."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; make setup brings it")
    command = [sys.executable, "-m", "hatchling", "build", "-d", output]
    subprocess.run([*map(str, command)], cwd=source, check=True, capture_output=True)
    return next(output.glob("*.whl")), next(output.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def work(built, tmp_path_factory):
    """A folder to work in, made by the installed command, which is returned as well."""
    home = tmp_path_factory.mktemp("user")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet"),
        *("--disable-pip-version-check", built[0]),
        cwd=home,
    )
    [packages] = (home / "venv" / "lib").glob("*/site-packages")
    # A plain line, so the editable package of this checkout is not found through it.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    command = home / "venv" / "bin" / "gridclip"
    run(command, "init", "work", cwd=home)
    return home / "work", command


def test_the_source_builds_the_same_wheel(built, tmp_path):
    wheel, source = built
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = [path for path in tmp_path.iterdir() if path.is_dir()]
    again, _ = build(unpacked, tmp_path / "dist")
    names = [{each for each in zipfile.ZipFile(path).namelist()} for path in (wheel, again)]
    assert names[0] == names[1]
    assert any(name.endswith("licenses/NOTICE") for name in names[0])


def test_the_installed_package_is_the_built_one(work):
    folder, command = work
    code = "import gridclip; print(gridclip.__file__)"
    assert str(folder.parent / "venv") in run(command.parent / "python", "-c", code, cwd=folder)


def test_every_row_and_sweep_that_a_document_names_is_there(work):
    folder, _ = work
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), folder / "README.md"]
    text = "\n".join(path.read_text() for path in documents)
    named = set(re.findall(r"(?<![\w/])(?:experiments|sweeps)/[\w/-]+\.yaml", text))
    assert len(named) > 10
    recipes = {"experiments/mini/plain_grid.yaml"}  # which a reader writes
    assert [name for name in named - recipes if not (folder / name).is_file()] == []


def test_two_steps_of_the_first_row_train_and_evaluate(work):
    folder, gridclip = work
    few = ("--train_images", "24", "--val_images", "4")
    run(gridclip, "data", "mini", "data/mini", "--seed", "0", *few, cwd=folder)
    steps = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
    row = ("--config", "experiments/mini/gridclip.yaml", "--run_dir", "runs/first")
    run(gridclip, "fit", *row, *steps, "--data.init_args.batch_size", "4", cwd=folder)
    assert json.loads((folder / "runs/first/metrics.json").read_text())["num_images"] == 4
    names = ("--names", "red star", "--threshold", "0")
    image = next((folder / "data/mini/images").rglob("*.jpg"))
    run(gridclip, "detect", "--run", "runs/first", *names, image, cwd=folder)
    assert (folder / "detections/detections.json").is_file()


def test_the_sweep_of_the_readme_would_start(work):
    folder, gridclip = work
    assert "4" in run(gridclip, "sweep", "check", "sweeps/mini.yaml", cwd=folder)
