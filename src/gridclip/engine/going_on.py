"""When a training goes on in its folder, and by which checkpoint; else, what is in the way."""

import os
import shlex
from pathlib import Path
from typing import Any

from gridclip.io.errors import InputError

LAST = "last"
"""Value of --ckpt_path: go on by the checkpoint of the run folder; begin, where it has none yet."""

GO_ON_VARIABLE = "GRIDCLIP_GO_ON"
"""Set to 1, a fit goes on in its folder by itself, as one that is restarted does."""

CHECKPOINT = "checkpoints/last.ckpt"
_RESULTS = ("metrics.json", "detections.json", "history.jsonl", "categories.csv", CHECKPOINT)
"""What a run measured or learnt; the figures of a folder are those of its weights and data."""
_PREEMPTED = "hpc_ckpt_*.ckpt"  # of Lightning's own preemption, which evaluates them


def is_restarted() -> bool:
    """Returns whether who started this process starts it again when it ends early.

    torchrun does with --max-restarts. It says how often it did, but only to the machines that were
    there before, so not the count decides but that it would. SLURM counts for all machines.
    """
    counts = (os.environ.get("TORCHELASTIC_MAX_RESTARTS"), os.environ.get("SLURM_RESTART_COUNT"))
    return os.environ.get(GO_ON_VARIABLE) == "1" or any(int(each or 0) > 0 for each in counts)


def checkpoint_of(folder: Path, asked: str | None) -> str | None:
    """Returns the checkpoint that a fit goes on by, if it does.

    Args:
        folder: The run folder.
        asked: --ckpt_path: a file, `last`, or None.
    """
    if asked not in (None, LAST) or (asked is None and not is_restarted()):
        return asked
    file = folder / CHECKPOINT
    return str(file) if file.exists() else None


def refuse_passing_folder(asked: str | None) -> None:
    """Refuses a training that torchrun restarts in a folder of another name each time.

    Args:
        asked: The run folder, if it is named.

    Raises:
        InputError: if it is not.
    """
    if asked is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0:
        raise InputError(
            "each restart would begin in a new folder",
            field="run_dir",
            fix="name the --run_dir in which it goes on",
        )


def refuse_results(folder: Path, command: str, checkpoint: str | None) -> None:
    """Refuses a folder with the results of another run: they would be mixed with its own.

    Only a training goes on in a folder, by a checkpoint in it. One that ended before it measured or
    learnt anything has left nothing to lose.

    Args:
        folder: The run folder.
        command: fit, validate, test or predict.
        checkpoint: What it goes on by, if anything.

    Raises:
        InputError: naming what is there, and the command that goes on.
    """
    aside = "give another --run_dir, or move this one away"
    for file in folder.glob(_PREEMPTED):  # Lightning would evaluate it in place of the weights
        fix = f"move it out of the folder, then go on: {command_to_go_on(folder)}\n  or {aside}"
        problem = "this folder holds a checkpoint of SLURM's preemption by an earlier version"
        raise InputError(problem, file=file, field="run_dir", fix=fix)
    held = [name for name in _RESULTS if (folder / name).exists()]
    if command != "fit":
        held += ["config.yaml"] * (folder / "config.yaml").exists()
    inside = checkpoint is not None and Path(checkpoint).resolve().is_relative_to(folder.resolve())
    if not held or (command == "fit" and inside):
        return
    fix = aside
    if (folder / CHECKPOINT).exists() and command == "fit":
        fix = f"go on with it: {command_to_go_on(folder)}\n  or {aside}"
    if "metrics.json" in held:
        what = "a finished run"
    elif {"history.jsonl", CHECKPOINT} & set(held):
        what = "a training that was cut off"
    else:
        what = f"what another run left: {held[0]}"
    raise InputError(f"this folder holds {what}", file=folder, field="run_dir", fix=fix)


def refuse_other_processes(checkpoint: dict[str, Any], processes: int, file: Path) -> None:
    """Refuses to go on with another number of processes, as where a machine did not come back.

    Every step would see other images, and other sums of losses.

    Args:
        checkpoint: What the file holds.
        processes: Of this training.
        file: The checkpoint.

    Raises:
        InputError: naming the step, the images seen, and the commands that go on.
    """
    states = [each for each in checkpoint.values() if isinstance(each, dict)]
    before = next((each["processes"] for each in states if "processes" in each), processes)
    if before == processes:
        return
    seen = checkpoint.get("callbacks", {}).get("LastCheckpoint", {}).get("images")
    images = "" if seen is None else f", after {seen} images"
    folder = file.parent.parent
    anew = shlex.join(
        [
            *("gridclip", "fit", "--config", str(folder / "config.yaml")),
            *("--model.init_from", str(file), "--run_dir", f"{folder}-{processes}"),
        ]
    )
    raise InputError(
        f"was written by {before} processes at step {checkpoint.get('global_step')}{images}; "
        f"now there are {processes}, which would see other images in each step",
        file=file,
        field="ckpt_path",
        fix=f"start {before} again by the same command\n  or begin a new training with its "
        f"weights: {anew}",
    )


def command_to_go_on(folder: Path) -> str:
    """Returns what to type to go on with a training that was cut off."""
    options = {
        "--config": folder / "config.yaml",
        "--ckpt_path": folder / CHECKPOINT,
        "--run_dir": folder,
    }
    words = ["gridclip", "fit", *(str(word) for pair in options.items() for word in pair)]
    return shlex.join(words)
