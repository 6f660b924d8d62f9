"""`gridclip finetune`: a run learns own names and keeps the old ones; both are measured."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from gridclip.data.forms.place import DataPlace, PlacedAnnotations
from gridclip.engine.finetune.measuring import Tuned, measure
from gridclip.engine.finetune.mixture import Found, Mixture, copy_validation, drawn, link_images
from gridclip.engine.finetune.names import compare_names
from gridclip.engine.finetune.row import make_row, read_run
from gridclip.engine.lightning_cli import run_lightning
from gridclip.engine.predictor import TrainedDetector, load_run
from gridclip.engine.recipe import mapping
from gridclip.io.errors import InputError, require_at_least, require_fraction, require_positive
from gridclip.io.files import write_text
from gridclip.io.tables import make_console, say
from gridclip.structures import Vocabulary

_PASSES = 20  # over the own images, within these bounds of steps
_LEAST, _MOST = 60, 2000


def finetune_command(  # noqa: PLR0913 - the options of a command
    run: Path,
    *,
    data: Path,
    output: Path,
    train: str = "train.json",
    val: str = "val.json",
    images: str = "images",
    steps: int | None = None,
    lr: float = 0.1,
    replay: float = 1.0,
    pseudo: float = 0.5,
    blend: list[float] | None = None,
    seed: int = 0,
    row_only: bool = False,
    trust: bool = False,
) -> None:
    """Teach a trained detector your own names, and keep the old ones.

    It says which names are new, known, or spelt alike, trains on your images beside some of the old
    ones, and prints AP of your names and of the old ones, before and after. OUTPUT is a run folder.

    Args:
        run: Folder of the training to start from.
        data: Your own: a folder of LVIS or COCO form, YOLO, Pascal VOC or LabelMe.
        output: Folder to make.
        train: Annotation file to train on, relative to data; so are the next two.
        val: Annotation file to measure on.
        images: Folder of the images.
        steps: Of training; by default 20 passes over your images, at least 60 and at most 2000.
        lr: Learning rate, as a share of that of the run.
        replay: Old images to train on too, as a share of the number of yours; 0: none.
        pseudo: What the run itself finds of its old names in your images, from this score on, is
            trained on as boxes; 1: nothing.
        blend: Shares of the new weights, such as [0.25,0.5]: each blend of old and new weights is
            measured and kept as OUTPUT/blend-0.25. No training.
        seed: Of images drawn and of the training.
        row_only: Write OUTPUT/row.yaml and its data and print the command of the training alone.
        trust: Import also classes that the run names from elsewhere, such as your own.

    Raises:
        InputError: before any training, for files, names or numbers that are wrong.
    """
    require_positive(**{"--lr": lr})
    require_at_least(1, **{"--steps": 1 if steps is None else steps})
    require_at_least(0, **{"--replay": replay, "--seed": seed})
    require_fraction(**{"--pseudo": pseudo, **{f"--blend {each}": each for each in blend or []}})
    console, recipe = make_console(), read_run(run)
    own = [DataPlace(data, train, images, "train"), DataPlace(data, val, images, "val")]
    wanted = _Wanted(replay, pseudo, seed, trust)
    count = _prepare(console, run, recipe, own, output, wanted)
    steps = steps or min(_MOST, max(_LEAST, _PASSES * count // _batch(recipe)))
    row = make_row(run, recipe, root=output / "data", steps=steps, lr=lr, seed=seed)
    write_text(output / "row.yaml", yaml.safe_dump(row, sort_keys=False, allow_unicode=True))
    words = ["fit", "--config", str(output / "row.yaml"), "--run_dir", str(output)]
    words += ["--trust"] if trust else []
    if row_only:
        return say(console, "train: gridclip " + " ".join(words))
    run_lightning(words)
    measure(console, Tuned(run, recipe, output, row, trust), blend or [])


class _Wanted(NamedTuple):
    """How much of the old is kept before the eyes of the new."""

    replay: float
    pseudo: float
    seed: int
    trust: bool


def _prepare(
    console: Console,
    run: Path,
    recipe: dict[str, Any],
    own: list[DataPlace],
    output: Path,
    wanted: _Wanted,
) -> int:
    """Writes the data of a fine-tuning, tells what it is, and returns the number of own images.

    Args:
        console: Where it is told.
        run: The run that learns.
        recipe: Its config.yaml.
        own: Own data, to train on and to measure on.
        output: The folder; the data is its `data`.
        wanted: What is taken of the old.

    Raises:
        InputError: if a file, a name or a folder is wrong.
    """
    if output.exists() and any(output.iterdir()):
        raise InputError("is there already", file=output, fix="name another --output")
    place, measured_on = own
    mine, detector = place.read(), load_run(run, "auto", trust=wanted.trust)
    names = [each.name for each in mine.annotations.categories]
    detector.search([np.zeros((32, 32, 3), np.uint8)], Vocabulary(names))  # has each a vector?
    for line in compare_names(names, _trained(detector, run)).told():
        say(console, line)
    copy_validation(measured_on, output / "data")
    old = _old_data(recipe, console) if wanted.replay else None
    say(console, f"{output / 'data'}: " + _mix(output / "data", mine, old, detector, wanted))
    return len(mine.annotations.image_ids)


def _batch(recipe: dict[str, Any]) -> int:
    return int(mapping(recipe.get("data"), "init_args").get("batch_size", 2))


def _trained(detector: TrainedDetector, run: Path) -> tuple[str, ...]:
    """The names that boxes showed to a run.

    Raises:
        InputError: if its checkpoint does not say: it is of an older version.
    """
    names = detector.detector.trained_on
    if names is None:
        problem = "does not say which names it was trained on"
        raise InputError(problem, file=run, fix="train it again with this version")
    return tuple(names.names)


def _old_data(recipe: dict[str, Any], console: Console) -> PlacedAnnotations | None:
    """The training data of a run, where it is still there."""
    given = mapping(recipe.get("data"), "init_args")
    place = DataPlace(
        Path(str(given.get("root", "."))),
        str(given.get("train", "train.json")),
        str(given.get("images", "images")),
        "train",
    )
    try:
        return place.read("drop")
    except InputError as error:
        say(console, f"no old images are replayed: {error}")
        return None


def _mix(
    root: Path,
    own: PlacedAnnotations,
    old: PlacedAnnotations | None,
    detector: TrainedDetector,
    wanted: _Wanted,
) -> str:
    """Writes the training data, and returns what is in it, in words."""
    mixture, trained = Mixture(), _trained(detector, root)
    found = _find(own, detector, trained, wanted.pseudo) if wanted.pseudo < 1 else {}
    mixture.add(own.annotations, "own", found=found)
    links, told = {"own": own.images}, f"{len(own.annotations.image_ids)} of your images"
    if found:
        told += f" with {sum(map(len, found.values()))} boxes of old names found in them"
    if old is not None:
        count = round(wanted.replay * len(own.annotations.image_ids))
        rows = drawn(old, trained, count, wanted.seed)
        mixture.add(old.annotations, "old", names=trained, rows=rows)
        links["old"] = old.images
        told += f", {len(rows)} old images"
    write_text(root / "train.json", json.dumps(mixture.document()))
    link_images(root, links)
    return told


def _find(
    own: PlacedAnnotations, detector: TrainedDetector, trained: tuple[str, ...], least: float
) -> dict[int, list[Found]]:
    """What a run finds of its old names in own images, by row."""
    mine = {each.name for each in own.annotations.categories}
    asked = [name for name in trained if name not in mine]
    rows = {}
    paths = own.annotations.paths.tolist() if asked else []
    for row, path in enumerate(track(paths, "looking for old names", transient=True)):
        seen = detector.detect(own.images / path, asked, threshold=least)
        rows[row] = [Found(each.name, each.box) for each in seen]
    return {row: found for row, found in rows.items() if found}
