"""What does a training step pay for the teacher, run each time and stored once?

Three detectors take turns on the same batches of the mini data set, in one run, so that a busy
machine slows all: without image-level alignment (the peer), with the teacher run in every step, and
with its embeddings stored beforehand. A step is loading, losses, gradients and the optimizer. Needs
a few minutes:

    gridclip data mini data/mini
    python benchmarks/stored_teacher.py data/mini
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from gridclip.engine.lightning_cli import build
from gridclip.engine.optimizers import make_optimizer
from gridclip.engine.precompute.embed_images import embed_command

ROW = "experiments/mini/gridclip.yaml"
DETECTOR = "--model.detector.init_args"


def main() -> None:
    arguments = parse()
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # they are not its own here
    cores, machine = os.cpu_count(), platform.machine()
    print(f"{ROW}; {machine}, {cores} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "embeddings.safetensors"
        embed_command(arguments.root / "train.json", output=stored)
        steps = {
            "without": stepper(arguments.root, [f"{DETECTOR}.weights.image=0"]),
            "teacher run": stepper(arguments.root, []),
            "teacher stored": stepper(arguments.root, stored_options(stored)),
        }
        report(timed(steps, arguments.steps))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path("data/mini"))
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each")
    return parser.parse_args()


def stored_options(stored: Path) -> list[str]:
    return [
        f"--data.init_args.embeddings={stored}",
        f"{DETECTOR}.teacher=StoredTeacher",
        f"{DETECTOR}.teacher.init_args.file={stored}",
    ]


def stepper(root: Path, options: list[str]) -> Callable[[], None]:
    """One training step after the other, of the row with these options."""
    plain = ["--data.init_args.augmentation.colour=0", "--data.init_args.augmentation.crop=0"]
    cli = build(["--config", ROW, f"--data.init_args.root={root}", *plain, *options])
    detector = cli.model.detector.train()
    optimizer = make_optimizer(detector, cli.model.settings)
    cli.datamodule.setup("fit")
    batches = iter(cli.datamodule.train_dataloader())

    def step() -> None:
        optimizer.zero_grad()
        torch.stack([*detector.losses(next(batches)).values()]).sum().backward()
        optimizer.step()

    return step


def timed(steps: dict[str, Callable[[], None]], count: int) -> dict[str, list[float]]:
    """Seconds of `count` steps of each, in turn, after three that nobody counts."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(count + 3):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn >= 3:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def report(seconds: dict[str, list[float]]) -> None:
    for name, each in seconds.items():
        ratios = [mine / peer for mine, peer in zip(each, seconds["without"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        print(
            f"  {name:16} median {1000 * statistics.median(each):7.1f} ms a step, "
            f"{statistics.median(ratios):.3f} x without (middle half: {low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main()
