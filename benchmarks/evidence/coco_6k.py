"""Does alignment that reaches the grid lift names without boxes, on photographs? For a lent GPU.

Trains two rows, without and with region-level alignment, seed by seed in turns, so that whatever
time there is gives pairs: 12 epochs in bf16 on a GPU, `--steps` on a CPU. Proposals and the
teacher's embeddings of them are made once, of the first run without, and counted. Writes each run
with metrics and checkpoint, and summary.json, anew after each run; a second call goes on.
Eight minutes on one card:  python benchmarks/evidence/coco_6k.py runs/evidence
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROWS = Path("experiments/coco_6k")
METRICS = ("AP", "AP50", "APr", "AP50_novel", "AP50_base")


def main() -> None:
    given = arguments()
    began, seconds = time.monotonic(), {}
    given.output.mkdir(parents=True, exist_ok=True)
    for seed, name in itertools.product(given.seeds, ("plain", "aligned")):
        if time.monotonic() - began > 60 * given.minutes:
            print(f"{given.minutes} minutes are over: seed {seed}, {name} was not begun")
            return
        extra = []
        if name == "aligned":
            extra = [f"--data.init_args.regions={store_regions(given, seconds)}"]
        train(given, name, seed, extra, seconds)
        write_summary(given.output, seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="other words go to every gridclip fit"
    )
    parser.add_argument("output", type=Path, help="folder of the runs")
    parser.add_argument("--plain", type=Path, default=ROWS / "gridclip.yaml")
    parser.add_argument("--aligned", type=Path, default=ROWS / "gridclip_regions.yaml")
    parser.add_argument("--source", type=Path, default=Path("data/coco_6k/train.json"))
    parser.add_argument(
        "--teacher", type=Path, default=ROWS.parent / "shared" / "coco_teacher.yaml"
    )
    parser.add_argument("--view", default="roi")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=12, help="on a GPU")
    parser.add_argument("--steps", type=int, default=0, help="in place of epochs")
    parser.add_argument("--limit", type=int, default=12, help="proposals an image")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no run begins")
    given, more = parser.parse_known_args()
    given.more = more
    return given


def train(
    given: argparse.Namespace, name: str, seed: int, extra: list[str], seconds: dict[str, float]
) -> None:
    """Trains one row with one seed, unless it is there."""
    folder = given.output / f"{name}-{seed}"
    if (folder / "metrics.json").exists():
        return
    length = [f"--trainer.max_steps={given.steps}"]
    if not given.steps:
        length = ["--trainer.max_steps=-1", f"--trainer.max_epochs={given.epochs}"]
    card = ["--trainer.accelerator=cpu"]
    if torch.cuda.is_available():
        card = [
            "--trainer.accelerator=gpu",
            "--trainer.devices=1",
            "--trainer.precision=bf16-mixed",
        ]
        card += ["--data.init_args.num_workers=14"]
    row = given.plain if name == "plain" else given.aligned
    words = [f"--config={row}", f"--run_dir={folder}", f"--seed_everything={seed}"]
    words += [f"--data.init_args.seed={seed}", *length, *card, *extra, *given.more]
    timed(f"fit {name}-{seed}", ["fit", *words], seconds)


def store_regions(given: argparse.Namespace, seconds: dict[str, float]) -> Path:
    """Makes proposals of the first plain run and embeds them, unless that is done."""
    proposals, regions = (given.output / f"{each}.safetensors" for each in ("proposals", "regions"))
    first = given.output / f"plain-{given.seeds[0]}"
    sizes = [f"--limit={given.limit}"]
    if not proposals.exists():
        words = [str(given.source), f"--run={first}", "--least=0.1", f"--output={proposals}"]
        timed("propose", ["propose", *words, *sizes], seconds)
    if not regions.exists():
        words = [str(proposals), f"--source={given.source}", f"--output={regions}", *sizes]
        words += [f"--view={given.view}"]
        if given.teacher.exists():
            words.append(f"--teacher={given.teacher}")
        timed("embed", ["clip", "embed-proposals", *words], seconds)
    return regions


def timed(what: str, words: list[str], seconds: dict[str, float]) -> None:
    """Runs one command of gridclip, and stops at the first that fails."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "gridclip", *words], check=True)
    seconds[what] = round(time.monotonic() - began, 1)


def write_summary(output: Path, seconds: dict[str, float]) -> None:
    """Writes figures of each run, differences of pairs, and what each command took, so far."""
    figures = {
        file.parent.name: {key: value for key, value in content.items() if key in METRICS}
        for file in sorted(output.glob("*/metrics.json"))
        if (content := json.loads(file.read_text()))
    }
    gains = {key: gain(figures, key) for key in METRICS}
    summary = {"device": device(), "seconds": seconds, "figures": figures}
    summary["aligned less plain"] = gains
    (output / "summary.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(gains, indent=1))


def gain(figures: dict[str, dict[str, float | None]], key: str) -> dict[str, float] | None:
    """Mean and spread of a figure's difference over the seeds that have both runs."""
    found = [
        ours - theirs
        for name, plain in figures.items()
        if name.startswith("plain-")
        and (theirs := plain.get(key)) is not None
        and (ours := figures.get(name.replace("plain", "aligned"), {}).get(key)) is not None
    ]
    if not found:
        return None
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return {"mean": statistics.mean(found), "spread": spread, "pairs": len(found)}


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
