"""Kill -9 in the middle of an epoch, resume, and nothing differs from the run that went through."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch

from gridclip.cli import main

ROW = Path(__file__).parents[2] / "experiments" / "mini" / "gridclip.yaml"
STEPS = 6  # of an epoch: 48 pictures, 8 a step
EPOCHS = 4


class Witness(lightning.Callback):
    """Writes down what each step saw and lost, to the last bit; kills its processes if asked.

    Args:
        folder: Where; one file for each process.
        kill_after: Steps after which the whole process group dies, as by `kill -9`.
    """

    def __init__(self, folder: str, kill_after: int | None = None) -> None:
        self.folder, self.kill_after = Path(folder), kill_after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        line = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "index": batch_idx,
            "kind": type(batch).__name__,
            "ids": [record.image_id for record in batch.records],
            "loss": outputs["loss"].item().hex(),
        }
        with (self.folder / f"rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.kill_after:
            trainer.strategy.barrier()  # so that every process has written all its lines
            os.killpg(0, signal.SIGKILL)


def fit(folder, root, *arguments, kill_after=None):
    """The command line of a small run with a witness."""
    witness = {"folder": str(folder), "kill_after": kill_after}
    folder.mkdir(exist_ok=True)
    return [
        "fit",
        f"--config={ROW}",
        f"--run_dir={folder}",
        f"--data.init_args.root={root}",
        "--data.init_args.batch_size=8",
        '--data.init_args.resize={"shortest": [48, 64], "longest": 64}',
        '--data.init_args.val_resize={"shortest": [64], "longest": 64}',
        "--model.detector.init_args.width=16",
        "--model.detector.init_args.num_convs=1",
        "--trainer.max_steps=-1",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.val_check_interval=5",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.callbacks+="
        + json.dumps({"class_path": f"{__name__}.Witness", "init_args": witness}),
        *arguments,
    ]


def run_apart(command, *, check=True):
    """In processes of their own, which a witness may kill."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # the order of sums is part of the bits
    }
    return subprocess.run(
        [sys.executable, "-m", "gridclip", *command],
        check=check,
        timeout=280,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def seen(folder, rank=0):
    return [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()]


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def last_weights(folder):
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["global_step"], checkpoint["state_dict"]


def require_equal(whole, resumed, *, first, rank=0):
    """Every step from the first one on, and what was killed before, as in the whole run."""
    expected, witnessed = seen(whole, rank), seen(resumed, rank)
    assert len(expected) == len({line["step"] for line in expected})
    killed = next(
        row
        for row, line in enumerate(witnessed)
        if row and line["step"] <= witnessed[row - 1]["step"]
    )
    assert witnessed[killed]["step"] == first
    assert witnessed[:killed] == expected[:killed]
    assert witnessed[killed:] == expected[first - 1 :]


@pytest.fixture(scope="module")
def whole(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    main(fit(folder, mini_root, "--data.init_args.num_workers=0"))
    return folder


@pytest.mark.parametrize(
    ("workers", "every", "settings"),
    [
        (0, 5, []),  # the checkpoint is one of a validation, the line after it stands
        (2, 3, []),  # the validation came after the checkpoint, and comes again
        (2, 4, [f"--trainer.max_steps={STEPS * EPOCHS}", "--trainer.max_epochs=-1"]),
    ],
)
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    mini_root, whole, tmp_path, workers, every, settings
):
    folder = tmp_path / "killed"
    settings = [
        f"--data.init_args.num_workers={workers}",
        f"--checkpoint_every_steps={every}",
        *settings,
    ]
    killed = run_apart(fit(folder, mini_root, *settings, kill_after=11), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [line["step"] for line in history(folder)] == [5, 10]
    resume = f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    main(fit(folder, mini_root, *settings, resume))
    require_equal(whole, folder, first=10 // every * every + 1)
    assert history(folder) == history(whole)
    (steps, weights), (again, others) = last_weights(whole), last_weights(folder)
    assert steps == again == STEPS * EPOCHS
    assert all(torch.equal(weights[name], others[name]) for name in weights)
