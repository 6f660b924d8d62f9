"""`gridclip finetune`: a run learns own names and keeps the old ones; both are measured."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

from gridclip.data.forms.place import DataPlace, PlacedAnnotations
from gridclip.engine.finetune.keep import Keep, read_keep
from gridclip.engine.finetune.measuring import Tuned, measure
from gridclip.engine.finetune.mixture import Found, Mixture, copy_validation, drawn, link_images
from gridclip.engine.finetune.names import compare_names
from gridclip.engine.finetune.row import Length, make_row, read_run
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
    keep: str = "replay,pseudo",
    steps: int | None = None,
    lr: float | None = None,
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
        keep: What keeps the old names, with commas between: replay (old images beside yours),
            pseudo (what the run finds in your images, as boxes), distillation (to the run, where
            you have no box), residual (fined side branches alone learn), head (alone learns);
            or prompt (a shift of each own name's vector alone), or nothing.
        steps: Of training; by default 20 passes over your images, at least 60 and at most 2000.
        lr: Learning rate, as a share of that of the run; by default 0.1, with prompt 3.
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
    wanted = _Wanted(read_keep(keep), replay, pseudo, blend or [], steps, lr, seed, trust)
    wanted.check()
    own = [DataPlace(data, train, images, "train"), DataPlace(data, val, images, "val")]
    console = make_console()
    tuned = _prepare(console, run, own, output, wanted)
    words = ["fit", "--config", str(output / "row.yaml"), "--run_dir", str(output)]
    words += ["--trust"] if trust else []
    if row_only:
        return say(console, "train: gridclip " + " ".join(words))
    run_lightning(words)
    measure(console, tuned, wanted.blend)


class _Wanted(NamedTuple):
    """How it is to learn, as `finetune_command` has it."""

    keep: Keep
    replay: float
    pseudo: float
    blend: list[float]
    steps: int | None
    lr: float | None
    seed: int
    trust: bool

    def check(self) -> None:
        """Refuses numbers out of range.

        Raises:
            InputError: naming the first.
        """
        require_positive(**{"--lr": 1.0 if self.lr is None else self.lr})
        require_at_least(1, **{"--steps": 1 if self.steps is None else self.steps})
        require_at_least(0, **{"--replay": self.replay, "--seed": self.seed})
        require_fraction(**{"--pseudo": self.pseudo})
        require_fraction(**{f"--blend {each}": each for each in self.blend})

    def length(self, images: int, batch: int) -> Length:
        """How long it learns from so many images of one's own."""
        steps = self.steps or min(_MOST, max(_LEAST, _PASSES * images // batch))
        return Length(steps, self.keep.rate if self.lr is None else self.lr, self.seed)


def _prepare(
    console: Console, run: Path, own: list[DataPlace], output: Path, wanted: _Wanted
) -> Tuned:
    """Writes the data and the row of a fine-tuning, and tells what they are.

    Args:
        console: Where it is told.
        run: The run that learns.
        own: Own data, to train on and to measure on.
        output: The folder; the data is its `data`.
        wanted: How it is to learn.

    Raises:
        InputError: if a file, a name or a folder is wrong.
    """
    recipe = read_run(run)
    if output.exists() and any(output.iterdir()):
        raise InputError("is there already", file=output, fix="name another --output")
    place, measured_on = own
    mine, detector = place.read(), load_run(run, "auto", trust=wanted.trust)
    names = [each.name for each in mine.annotations.categories]
    detector.search([np.zeros((32, 32, 3), np.uint8)], Vocabulary(names))  # has each a vector?
    for line in compare_names(names, _trained(detector, run)).told():
        say(console, line)
    settings = wanted.keep.settings(detector.detector, names)
    length = wanted.length(len(mine.annotations.image_ids), _batch(recipe))
    row = make_row(run, recipe, output / "data", length, settings)
    copy_validation(measured_on, output / "data")
    old = _old_data(recipe, console) if wanted.keep.has("replay") and wanted.replay else None
    say(console, f"{output / 'data'}: " + _mix(output / "data", mine, old, detector, wanted))
    write_text(output / "row.yaml", yaml.safe_dump(row, sort_keys=False, allow_unicode=True))
    return Tuned(run, recipe, output, row, wanted.trust)


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
    looks = wanted.keep.has("pseudo") and wanted.pseudo < 1
    found = _find(own, detector, trained, wanted.pseudo) if looks else {}
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
