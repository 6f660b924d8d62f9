"""What does each way of keeping keep of the old names, and what does it let a run learn of the new?

Fine-tunes a run on an own data set by each way (what `gridclip finetune --keep` takes) and with
each seed, measures own and old names, and writes figures.json and table.md, anew after each run.
Seeds come first, so that whatever time there is gives all ways; a second call goes on.
A minute a way and a seed on mini:
python benchmarks/evidence/finetuning.py OUTPUT --run RUN --data OWN
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gridclip.engine.lightning_module import read_checkpoint

WAYS = ("nothing", "head", "replay,pseudo", "distillation", "residual", "prompt")
SHOWN = ("own AP", "own APfa", "old AP", "old APfa", "old base", "old novel")
SHOWN += ("old APr", "old APc", "old APf")
Figures = dict[str, float]
Seeds = list[Figures]  # figures of one way, by seed


def main() -> None:
    given = arguments()
    run = with_old_data(given)
    trained = set(read_checkpoint(run / "checkpoints" / "last.ckpt")["trained_on"])
    for seed, way in itertools.product(given.seeds, given.ways):
        finetune(given, run, way, seed)
        write(given, trained)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="other words go to every gridclip finetune"
    )
    parser.add_argument("output", type=Path, help="folder of the runs and of the table")
    parser.add_argument("--run", type=Path, required=True, help="where all begin")
    parser.add_argument("--data", type=Path, required=True, help="own data")
    parser.add_argument("--old", type=Path, help="folder of old data, if not that of the run")
    parser.add_argument("--ways", nargs="+", default=[*WAYS], help="each as --keep takes it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--blends", type=float, nargs="*", default=[0.25, 0.5, 0.75])
    parser.add_argument("--blended", nargs="*", default=["replay,pseudo"], help="ways to blend")
    given, more = parser.parse_known_args()
    given.more = more
    return given


def with_old_data(given: argparse.Namespace) -> Path:
    """Makes a folder of the run's weights, measured on the old data, and returns it."""
    folder: Path = given.output / "before"
    if (folder / "config.yaml").exists():
        return folder
    recipe = yaml.safe_load((given.run / "config.yaml").read_text(encoding="utf-8"))
    if given.old is not None:
        recipe["data"]["init_args"]["root"] = str(given.old)
    recipe["trainer"]["logger"] = False
    for broken in given.output.glob("before"):
        broken.rename(broken.with_name(f"before.broken-{len([*given.output.iterdir()])}"))
    row, weights = (
        given.output / "before.yaml",
        (given.run / "checkpoints" / "last.ckpt").absolute(),
    )
    fields = {"model", "data", "trainer", "seed_everything"}
    given.output.mkdir(parents=True, exist_ok=True)
    row.write_text(yaml.safe_dump({key: recipe[key] for key in fields}), encoding="utf-8")
    gridclip("validate", f"--config={row}", f"--ckpt_path={weights}", f"--run_dir={folder}")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").symlink_to(weights)
    (folder / "config.yaml").write_text(row.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def finetune(given: argparse.Namespace, run: Path, way: str, seed: int) -> None:
    """Fine-tunes by one way with one seed, unless it is there; what was broken off begins anew."""
    folder = place(given, way, seed)
    if (folder / "finetune.json").exists():
        return
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.broken-{len([*given.output.iterdir()])}"))
    words = [f"--data={given.data}", f"--output={folder}", f"--keep={way}", f"--seed={seed}"]
    if way in given.blended and given.blends:
        words.append(f"--blend={json.dumps(given.blends)}")
    gridclip("finetune", str(run), *words, f"--steps={given.steps}", *given.more)


def place(given: argparse.Namespace, way: str, seed: int) -> Path:
    folder: Path = given.output / f"{way.replace(',', '+')}-{seed}"
    return folder


def gridclip(*words: str) -> None:
    """Runs one command, and stops at the first that fails."""
    subprocess.run([sys.executable, "-m", "gridclip", *words], check=True)


def write(given: argparse.Namespace, trained: set[str]) -> None:
    """Writes the figures of every seed, and the table of means."""
    seeds = collected(given, trained)
    before = seeds.pop("before")
    document = {"steps": given.steps, "before": before[0], "after": seeds}
    (given.output / "figures.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    text = "\n".join(lines(before[0], seeds)) + "\n"
    (given.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


def collected(given: argparse.Namespace, trained: set[str]) -> dict[str, Seeds]:
    """Figures of each way, and of each blend of it, by seed; `before` is that of the run."""
    found: dict[str, Seeds] = {}
    for way, seed in itertools.product(given.ways, given.seeds):
        folder = place(given, way, seed)
        if not (folder / "finetune.json").exists():
            continue
        told = json.loads((folder / "finetune.json").read_text(encoding="utf-8"))
        history = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        for name, own in told["own"].items():
            figures = flat("own", own) | flat("old", told["old"][name])
            figures |= by_boxes(of_old_names(given, folder, name), trained)
            if name == "after":
                figures["seconds"] = json.loads(history[-1])["time"]
            title = {"before": "before", "after": way}.get(name, f"{way}, {name}")
            found.setdefault(title, []).append(figures | {"seed": seed})
    return found


def of_old_names(given: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    """The whole metrics.json of a fine-tuned run, or of what it began from."""
    run = folder / "evaluations" / f"old-{name.replace(' ', '-')}"
    file = (given.output / "before" if name == "before" else run) / "metrics.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def flat(kind: str, figures: dict[str, Any]) -> Figures:
    """Figures of AP, in percent."""
    return {
        f"{kind} {name}": 100 * value
        for name, value in figures.items()
        if name.startswith("AP") and isinstance(value, float)
    }


def by_boxes(figures: dict[str, Any], trained: set[str]) -> Figures:
    """Mean AP of old names whose boxes the run had seen, and of those it had not."""
    parts: dict[str, list[float]] = {"old base": [], "old novel": []}
    for name, value in figures["per_category"].items():
        if value is not None:
            parts["old base" if name in trained else "old novel"].append(100 * value)
    return {name: statistics.mean(values) for name, values in parts.items() if values}


def lines(before: Figures, seeds: dict[str, Seeds]) -> Iterator[str]:
    """The table: a row a way, mean ± standard deviation over the seeds."""
    groups = sorted(name for name in before if name.startswith("old AP_"))
    shown = [name for name in (*SHOWN, *groups) if name in before]
    yield "| keep | " + " | ".join(shown) + " | old AP kept | of plain's gain | seconds |"
    yield "|---|" + "---:|" * (len(shown) + 3)
    yield "| before | " + " | ".join(f"{before[name]:.1f}" for name in shown) + " | | | |"
    plain = seeds.get("nothing", [])
    for way, each in seeds.items():
        known = before["old AP"]
        kept = [100 * figures["old AP"] / known for figures in each] if known else []
        gained = list(gains(before, each, plain))
        seconds = [figures["seconds"] for figures in each if "seconds" in figures]
        cells = [spread([figures[name] for figures in each if name in figures]) for name in shown]
        cells += [spread(kept, " %"), spread(gained, " %"), spread(seconds)]
        yield f"| {way} ({len(each)} seeds) | " + " | ".join(cells) + " |"


def gains(before: Figures, way: Seeds, plain: Seeds) -> Iterator[float]:
    """Own AP gained, in percent of what plain fine-tuning gains with the same seed."""
    for figures, peer in itertools.product(way, plain):
        if figures["seed"] == peer["seed"] and peer["own AP"] > before["own AP"]:
            gained = figures["own AP"] - before["own AP"]
            yield 100 * gained / (peer["own AP"] - before["own AP"])


def spread(values: list[float], sign: str = "") -> str:
    if not values:
        return ""
    more = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{more}{sign}"


if __name__ == "__main__":
    main()
