"""The row of a fine-tuning: a run's own recipe, from its weights, on other data."""

from pathlib import Path
from typing import Any, NamedTuple

from gridclip.engine.recipe import mapping
from gridclip.io.errors import InputError
from gridclip.io.yaml_text import read_yaml

# What any DetectionData has; files and splits are those of the old data.
_DATA = ("batch_size", "val_batch_size", "num_workers", "resize", "val_resize", "augmentation")
_TRAINER = ("accelerator", "devices", "precision", "gradient_clip_val", "log_every_n_steps")


def read_run(run: Path) -> dict[str, Any]:
    """Returns the whole recipe of a run.

    Raises:
        InputError: if it is no folder of a training.
    """
    fix = "give the folder of a training: it has config.yaml and checkpoints/last.ckpt"
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        if not (run / name).is_file():
            raise InputError("is no folder of a training: it lacks " + name, file=run, fix=fix)
    return mapping({"recipe": read_yaml(run / "config.yaml", fix=fix)}, "recipe")


class Length(NamedTuple):
    """How long and how fast a fine-tuning learns.

    Args:
        steps: Of the training.
        lr: Its rate, as a share of that of the run.
        seed: Of the training.
    """

    steps: int
    lr: float
    seed: int


def make_row(
    run: Path, recipe: dict[str, Any], root: Path, length: Length, settings: dict[str, Any]
) -> dict[str, Any]:
    """Returns what `gridclip fit` is to do: the model of a run, from its weights, on a mixture.

    Args:
        run: Its folder.
        recipe: Its config.yaml.
        root: Of the mixture.
        length: Of the training.
        settings: Arguments of the detector that are not those of the run.

    Raises:
        InputError: if the run was aligned with stored regions, which the new images lack, or has
            learned a prompt, beside which nothing else learns.
    """
    model = recipe["model"]
    arguments = mapping(mapping(model, "detector"), "init_args")
    if arguments.get("prompt"):
        raise InputError(
            "has learned shifts of names' vectors, and lets the network rest",
            file=run / "config.yaml",
            field="model.detector.init_args.prompt",
            fix="start from the run that it started from",
        )
    arguments = {name: value for name, value in arguments.items() if name != "keeping"}
    if mapping(arguments, "weights").get("region") and not arguments.get("teacher"):
        raise InputError(
            "was aligned with stored regions, and new images have none",
            file=run / "config.yaml",
            field="model.detector.init_args.teacher",
            fix="name a teacher in the config.yaml of a copy of the run",
        )
    optimizer = mapping(model, "optimizer")
    rate = float(optimizer.get("lr", 1e-3)) * length.lr
    model = model | {
        "detector": mapping(model, "detector") | {"init_args": arguments | settings},
        "init_from": str(run / "checkpoints" / "last.ckpt"),
        "optimizer": optimizer | {"lr": rate},
    }
    given = mapping(recipe.get("data"), "init_args")
    data = {name: given[name] for name in _DATA if name in given}
    data |= {"root": str(root), "rare_split": "all", "verified": True, "seed": length.seed}
    trainer = {name: mapping(recipe, "trainer").get(name) for name in (*_TRAINER, "callbacks")}
    trainer = {name: value for name, value in trainer.items() if value is not None}
    trainer |= {"max_steps": length.steps, "max_epochs": -1}
    trainer |= {"val_check_interval": length.steps, "check_val_every_n_epoch": None}
    return {
        "seed_everything": length.seed,
        "paper": {"table": f"fine-tuned from {run}", "trained": True},
        "model": model,
        "data": {"class_path": "DetectionData", "init_args": data},
        "trainer": trainer,
    }
