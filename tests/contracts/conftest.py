"""A tiny mini data set, and one short training a detector, which every contract uses."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from detector_cases import SIDE, SIZE, Case
from PIL import Image

import gridclip
from gridclip.cli import main


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Twelve images to train on, as many with captions and without boxes, four to evaluate on."""
    folder = tmp_path_factory.mktemp("contracts") / "mini"
    main(["data", "mini", str(folder), "--train_images=12", "--val_images=4", f"--size={SIZE}"])
    pairs, images = folder / "hybrid" / "pairs.jsonl", folder / "hybrid" / "images"
    main(["data", "concepts", str(pairs), f"--output={folder / 'concepts.txt'}"])
    labels = [f"--vocabulary={folder / 'train.json'}", f"--output={folder / 'web.labels'}"]
    clip = ["--labeller.clip.name=gridclip-mini", "--labeller.clip.weights=mini"]
    with pytest.MonkeyPatch.context() as patch:  # what a test has is not there yet
        patch.setenv("GRIDCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        main(["data", "pseudo-label", str(images), *labels, *clip])
    return folder


@pytest.fixture(scope="session")
def recipe(root, tmp_path_factory) -> Callable[..., str]:
    """Writes the recipe of a case, on a kind of data; gives the option that names it."""

    def write(case: Case, data: str) -> str:
        file = tmp_path_factory.mktemp("recipe") / "row.yaml"
        file.write_text(yaml.safe_dump(case.recipe(root, data)))
        return f"--config={file}"

    return write


@pytest.fixture(scope="session")
def fitted(recipe, tmp_path_factory) -> Callable[[Case], Path]:
    """The run folder of a case, trained when it is first asked for; first.ckpt is of one step."""

    @functools.cache
    def fit(case: Case) -> Path:
        run = tmp_path_factory.mktemp("fitted") / "run"
        keep = {"class_path": "detector_cases.KeepFirst", "init_args": {"folder": str(run)}}
        callbacks = f"--trainer.callbacks+={json.dumps(keep)}"
        command = ["fit", recipe(case, case.learns), f"--run_dir={run}"]
        main([*command, "--checkpoint_every_steps=1", callbacks, "--trust"])
        return run

    return fit


@pytest.fixture(scope="session")
def evaluated(fitted, recipe) -> Callable[[Case], list[str]]:
    """How a case is evaluated: by its run, or by its row where nothing is trained."""

    def arguments(case: Case) -> list[str]:
        if not case.learns:
            return [recipe(case, "boxes")]
        run = fitted(case)
        checkpoint = f"--ckpt_path={run / 'checkpoints/last.ckpt'}"
        return [f"--config={run / 'config.yaml'}", checkpoint, "--trust"]  # it names KeepFirst

    return arguments


@pytest.fixture(scope="session")
def validated(evaluated, tmp_path_factory) -> Callable[[Case], Path]:
    """The folder of the validation of a case."""

    @functools.cache
    def validate(case: Case) -> Path:
        folder = tmp_path_factory.mktemp("validated")
        main(["validate", *evaluated(case), f"--run_dir={folder}"])
        return folder

    return validate


@pytest.fixture(scope="session")
def loaded(fitted) -> Callable[[Case], gridclip.TrainedDetector]:
    """The detector of the run of a case."""
    return functools.cache(lambda case: gridclip.load(fitted(case)))


@pytest.fixture(scope="session")
def image(root) -> Path:
    """An image file, wider than high, and beside it half.png, half as large.

    The half is of the size that the networks see, and pixel for pixel what they see of the whole.
    """
    file = root / "wide.png"
    with Image.open(next((root / "images" / "val").glob("*.jpg"))) as photograph:
        half = photograph.crop((0, 0, SIDE, SIDE * 3 // 4))
    half.save(file.with_name("half.png"))
    half.resize((2 * half.width, 2 * half.height), Image.Resampling.NEAREST).save(file)
    return file
