"""What does a GPU make of it: training and detecting, against torchvision, ViLD and DetCLIPv2?

Images a second, peak memory and the share of the card's own speed (of a product of large matrices
in the same precision) of each network, with random weights: training by 16 images of 800 × 1333 in
bfloat16, 1203 names, stored embeddings; detecting one image and 16. Then whether the GPU finds what
the CPU finds, whether a training that was cut off goes on exactly, and how long a real one waits
for its data. Results are written after each part, so that a machine that is taken away costs
one part; none is begun after seven minutes. Into OUTPUT/gpu.json and gpu.md, runs/gpu by default:
python benchmarks/gpu.py OUTPUT; with --quick small sizes, on a CPU too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _networks
import _timing
import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_step import step

from gridclip.data.datamodules.noise import ellipses
from gridclip.models.base import Detector
from gridclip.structures import DetectionBatch

ROW = Path(__file__).parents[1] / "experiments" / "mini" / "gridclip.yaml"
NETWORKS: dict[str, Callable[[], Detector]] = {
    "GridCLIP-R50, towers of 4": lambda: _networks.gridclip(4, aligned=True),
    "GridCLIP-R50, towers of 2": lambda: _networks.gridclip(2, aligned=True),
    "GridCLIP-R50, towers of 1": lambda: _networks.gridclip(1, aligned=True),
    "ViLD-ensemble": lambda: _networks.vild("vild-ensemble"),
    "ViLD-ensemble with masks": lambda: _networks.vild("vild-ensemble", masks=True),
    "ViLD": lambda: _networks.vild("vild"),
    "DetCLIPv2-T": _networks.detclip,
}
FCOS = "FCOS R50 of torchvision, 91 classes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, nargs="?", default=Path("runs/gpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    parser.add_argument("--rounds", type=int, default=8, help="timed turns of each network")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=420, help="begin no part after so many")
    given = parser.parse_args()
    given.device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.device == "cpu" and not given.quick:
        print("no GPU is here; --quick tries the script on a CPU")
        return
    if given.quick:
        given.batch, given.rounds = 2, 2
    given.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": _timing.machine(), "batch": given.batch}
    began = time.monotonic()
    for name, part in PARTS.items():
        if time.monotonic() - began > given.seconds:
            found.setdefault("left out for want of time", []).append(name)
            continue
        found[name] = part(given)
        (given.output / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (given.output / "gpu.md").write_text("\n".join(page(found)), encoding="utf-8")


def speed(given: argparse.Namespace) -> dict[str, float]:
    """Operations a second of a product of large matrices."""
    side = 256 if given.quick else 8192
    speeds = {}
    for kind in (torch.bfloat16, torch.float32):
        one = torch.randn(side, side, device=given.device, dtype=kind)
        taken = seconds(lambda one=one: one @ one, given.rounds)
        speeds[str(kind).removeprefix("torch.")] = 2 * side**3 / taken
    return speeds


def training(given: argparse.Namespace) -> dict[str, Any]:
    """A step of each network: losses, gradients and the optimizer."""
    size = _networks.SMALL if given.quick else _networks.FULL
    rows = {}
    for name, make in networks(given).items():
        names = _networks.names(150 if name.startswith("DetCLIP") else 1203)
        batch = with_masks(_networks.batch(size, given.batch, names))
        batch = move_data_to_device(batch, torch.device(given.device))
        network = make().train().to(given.device)
        run = step(network, lambda network=network, batch=batch: [*network.losses(batch).values()])
        rows[name] = measured(in_bfloat16(run, given), given)
    fcos = _networks.fcos(size).train().to(given.device)
    for part in fcos.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    batch = move_data_to_device(
        _networks.batch(size, given.batch, _networks.names(90)), given.device
    )
    images = [pixels[:, : size[0], : size[1]].float() / 255 for pixels in batch.images.pixels]
    truth = [{"boxes": each.boxes, "labels": each.labels + 1} for each in batch.targets]
    run = step(fcos, lambda: [*fcos(images, truth).values()])
    rows[FCOS] = measured(in_bfloat16(run, given), given)
    return rows


def with_masks(batch: DetectionBatch) -> DetectionBatch:
    """The same, for networks that learn masks too."""
    targets = [each._replace(masks=ellipses(len(each.boxes))) for each in batch.targets]
    return batch._replace(targets=targets)


def detecting(given: argparse.Namespace) -> dict[str, Any]:
    """Detections of one image and of a batch, with suppression."""
    size = _networks.SMALL if given.quick else _networks.FULL
    rows: dict[str, Any] = {}
    for count in (1, given.batch):
        images = move_data_to_device(_networks.images(size, count), given.device)
        records, names = _networks.records(size, count), _networks.names(1203)
        for name, make in networks(given).items():
            network = make().eval().to(given.device)
            run = detection(network, images, names, records)
            rows[f"{name}, {count}"] = measured(in_bfloat16(run, given), given, count)
        network = NETWORKS["GridCLIP-R50, towers of 1"]().eval().to(given.device)
        if given.device == "cuda":  # a compiler is needed, which not every CPU machine has
            network.backbone = torch.compile(network.backbone)  # type: ignore[assignment]
            run = detection(network, images, names, records)
            name = f"GridCLIP-R50, towers of 1, compiled backbone, {count}"
            rows[name] = measured(in_bfloat16(run, given), given, count)
        fcos = _networks.fcos(size).eval().to(given.device)
        plain = [pixels[:, : size[0], : size[1]].float() / 255 for pixels in images.pixels]
        run = torch.no_grad()(lambda fcos=fcos, plain=plain: fcos(plain))
        rows[f"{FCOS}, {count}"] = measured(in_bfloat16(run, given), given, count)
    return rows


def networks(given: argparse.Namespace) -> dict[str, Callable[[], Detector]]:
    """Those that are compared; of small sizes two, to see that all of this still runs."""
    kept = ("GridCLIP-R50, towers of 1", "ViLD-ensemble with masks")
    return {name: make for name, make in NETWORKS.items() if name in kept or not given.quick}


def detection(network: Detector, *batch: Any) -> Callable[[], object]:  # noqa: ANN401
    """Detects in a batch."""
    return lambda: network.detect(*batch)


def measured(
    run: Callable[[], object], given: argparse.Namespace, count: int = 0
) -> dict[str, Any]:
    """Images a second, peak memory and operations of what runs on so many images."""
    count = count or given.batch
    with FlopCounterMode(display=False) as counter:
        run()
    if given.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    each = seconds(run, given.rounds)
    peak = torch.cuda.max_memory_allocated() if given.device == "cuda" else 0
    operations = float(counter.get_total_flops())
    return {"images a second": count / each, "peak bytes": peak, "operations": operations / count}


def in_bfloat16(run: Callable[[], object], given: argparse.Namespace) -> Callable[[], object]:
    """The same where the card's fast precision is used."""

    def cast() -> object:
        with torch.autocast(given.device, torch.bfloat16, enabled=given.device == "cuda"):
            return run()

    return cast


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The median of some turns, after two that warm up."""
    taken = _timing.seconds({"it": run}, rounds + 1)["it"]
    return statistics.median(taken[1:])


def parity(given: argparse.Namespace) -> dict[str, float]:
    """The largest gaps between what GPU and CPU find, in full precision."""
    size = _networks.SMALL
    names, records = _networks.names(1203), _networks.records(size)
    found = {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for device in ("cpu", given.device):
        network = _networks.gridclip(1).eval().to(device)
        images = move_data_to_device(_networks.images(size), device)
        found[device] = network.detect(images, names, records)[0]
    one, other = (found[device] for device in ("cpu", given.device))
    score = (one.scores - other.scores.cpu()).abs().max()
    box = (one.boxes - other.boxes.cpu()).abs().max(dim=1).values.quantile(0.95)
    return {"largest gap of scores": float(score), "95 % of boxes within px": float(box)}


def real_training(given: argparse.Namespace) -> dict[str, Any]:
    """Trains the mini row: at full size to see where time goes, and cut off to see it go on."""
    root, steps, side = given.output / "mini", 60, 800
    sizes: list[str] = []
    if given.quick:
        steps, side, sizes = 4, 96, ["--train_images=64", "--val_images=8"]
    gridclip("data", "mini", root, *sizes)
    common = ["fit", f"--config={ROW}", f"--data.init_args.root={root}"]
    common += [f"--data.init_args.batch_size={given.batch}", "--trainer.limit_val_batches=1"]
    timed, whole, cut = (given.output / name for name in ("timed", "whole", "cut"))
    settings = {"dirpath": str(given.output), "filename": "times"}
    profiler = {"class_path": "SimpleProfiler", "init_args": settings}
    gridclip(
        *common,
        f'--data.init_args.resize={{"shortest": [{side}], "longest": {2 * side}}}',
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps}",
        f"--data.init_args.num_workers={min(16, os.cpu_count() or 1)}",
        f"--trainer.profiler={json.dumps(profiler)}",
        f"--run_dir={timed}",
    )
    common += ["--trainer.max_steps=24", "--trainer.val_check_interval=24"]
    common += ["--checkpoint_every_steps=4"]
    gridclip(*common, f"--run_dir={whole}")
    cut_off([*common, f"--run_dir={cut}"], cut / "checkpoints" / "last.ckpt")
    gridclip(*common, f"--run_dir={cut}", "--ckpt_path=last")
    return {"waiting for data": waiting(given.output), "goes on exactly": same_weights(whole, cut)}


def cut_off(words: list[str], checkpoint: Path) -> None:
    """Begins a training and asks it to stop once it saved a first time."""
    training = subprocess.Popen([sys.executable, "-m", "gridclip", *words])
    while training.poll() is None and not checkpoint.exists():
        time.sleep(0.05)
    training.terminate()
    training.wait()


def gridclip(*words: object) -> None:
    """Runs a command of the package."""
    subprocess.run([sys.executable, "-m", "gridclip", *map(str, words)], check=True)


def waiting(folder: Path) -> float:
    """The share of the time of training steps in which they wait for their data."""
    (report,) = folder.glob("*times*")
    rows = [line.split("|") for line in report.read_text(encoding="utf-8").splitlines()]
    total = {row[1].strip(): float(row[4]) for row in rows if len(row) > 5 and "." in row[4]}
    (waited,) = (time for name, time in total.items() if name.endswith("train_dataloader_next"))
    return waited / (waited + total["run_training_batch"])


def same_weights(*runs: Path) -> bool:
    """Whether two runs ended with the same bits."""
    one, other = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in runs
    )
    return all(torch.equal(one[name], other[name]) for name in one)


def page(found: dict[str, Any]) -> list[str]:
    """The results as Markdown."""
    lines = [found["machine"], ""]
    fast = found.get("speed", {}).get("bfloat16")
    for part in ("training", "detecting"):
        lines += [
            f"| {part} | images a second | of the card's speed | peak memory |",
            "|---|---:|---:|---:|",
        ]
        for name, row in found.get(part, {}).items():
            share = row["operations"] * row["images a second"] / fast if fast else float("nan")
            memory = f"{row['peak bytes'] / 2**30:.1f} GiB"
            lines.append(f"| {name} | {row['images a second']:.1f} | {share:.0%} | {memory} |")
        lines.append("")
    for part in ("parity", "real training", "left out for want of time"):
        lines += [f"{part}: {found[part]}"] if part in found else []
    return [*lines, ""]


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "speed": speed,
    "training": training,
    "detecting": detecting,
    "parity": parity,
    "real training": real_training,
}


if __name__ == "__main__":
    main()
