"""A small training that writes down what each step saw and lost, and may be cut off anywhere."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import torch

from gridclip.data.datasets.image_level import ImageLevelSource, ImageSample
from gridclip.data.sampling import SampleIndex
from gridclip.structures import Record, Vocabulary

ROW = Path(__file__).parents[2] / "experiments" / "mini" / "gridclip.yaml"
STEPS = 9  # of an epoch: 6 of 8 images with boxes, 3 of 4 without
EPOCHS = 4
KILLED = 16  # after so many steps


class Noise(ImageLevelSource):
    """Images without boxes, and names drawn for them; five turns of three a pass."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary(["red plain circle", "blue striped square"])
        self.sizes = np.array([[48, 64], [64, 40]] * 7)

    def check(self) -> None:
        pass

    def __getitem__(self, draw: SampleIndex | int) -> ImageSample:
        height, width = self.sizes[draw.row].tolist()
        chance = np.random.default_rng((draw.epoch, draw.row))
        return ImageSample(
            torch.from_numpy(chance.integers(0, 256, (3, height, width), np.uint8)),
            torch.from_numpy(chance.random(2, np.float32)),
            Record(draw.row, str(draw.row), height, width),
        )


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


class Asks(lightning.Callback):
    """Sends its own process a signal while it is at a step or validates after it.

    Args:
        number: The signal.
        step: From 1.
        validating: Whether it comes in the validation after that step, not within the step.
        rank: Of the process that is sent it.
        once: A file that is made before; where it is, nothing is sent.
    """

    def __init__(
        self,
        number: int,
        step: int,
        validating: bool = False,
        rank: int = 0,
        once: str | None = None,
    ) -> None:
        self.number, self.step, self.validating = number, step, validating
        self.rank, self.once = rank, once

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step + 1 == self.step and not self.validating:
            self.send(trainer.global_rank)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.global_step == self.step and self.validating and batch_idx == 0:
            self.send(trainer.global_rank)

    def send(self, rank):
        if rank != self.rank or (self.once and Path(self.once).exists()):
            return
        if self.once:
            Path(self.once).touch()
        os.kill(os.getpid(), self.number)


def asking(number, step, **settings):
    """The option of a fit that is sent a signal."""
    settings = {"number": int(number), "step": step, **settings}
    named = {"class_path": f"{__name__}.Asks", "init_args": settings}
    return f"--trainer.callbacks+={json.dumps(named)}"


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
        f"--data.init_args.image_level={__name__}.Noise",
        "--data.init_args.image_level_ratio=0.5",
        "--data.init_args.image_level_batch_size=4",
        "--model.detector.init_args.weights.pseudo=1.0",
        "--trainer.max_steps=-1",
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.val_check_interval=5",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.callbacks+="
        + json.dumps({"class_path": f"{__name__}.Witness", "init_args": witness}),
        "--trust",  # Noise and Witness are no classes of gridclip
        *arguments,
    ]


def environment():
    """Of other processes, which import witnesses from here."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # the order of sums is part of the bits
    }


def run_apart(command, *, check=True):
    """In processes of their own, which a witness may kill."""
    return subprocess.run(
        [sys.executable, "-m", "gridclip", *command],
        check=check,
        timeout=280,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def seen(folder, rank=0):
    return [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()]


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def last_weights(folder):
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["global_step"], checkpoint["state_dict"]


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.init_args.batch_size=4"]
BY_STEPS = [f"--trainer.max_steps={STEPS * EPOCHS}", "--trainer.max_epochs=-1"]
