"""What the benchmarks share: taking turns, ratios with their spread, peak memory, the table.

Ours and the peer take turns in one process, so that a busy machine slows both; the ratio of each
turn is taken, and the median of these is reported with the middle half.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
TABLE = FOLDER / "README.md"
BEGIN, END = "<!-- table: written by the scripts -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    question: str
    ours: str  # a figure with its unit
    peer: str
    ratio: float
    low: float  # first quartile of the turns' ratios
    high: float  # third
    goal: str


def arguments(text: str, **defaults: float) -> argparse.Namespace:
    """What every script takes, and its own options with their defaults."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: does it still run?")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", help="measure the peak memory of this side alone")
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = parser.parse_args()
    if given.quick:
        given.rounds = 2
    torch.set_num_threads(given.threads)
    return given


def seconds(
    sides: dict[str, Callable[[], Any]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each side, in turn; after one turn that nobody counts, if it is to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-int(warm_up), rounds):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                taken[name].append(time.perf_counter() - began)
    return taken


def row(question: str, ours: list[float], peer: list[float], goal: str, *, faster: bool) -> Row:
    """Compare seconds: how many times faster ours is, or its share of the peer's time."""
    ratios = [b / a if faster else a / b for a, b in zip(ours, peer, strict=True)]
    low, high = (
        statistics.quantiles(ratios, n=4, method="inclusive")[::2]
        if len(ratios) > 1
        else ratios * 2
    )
    each = [f"{1000 * statistics.median(side):.0f} ms" for side in (ours, peer)]
    return Row(question, *each, statistics.median(ratios), low, high, goal)


def memory_row(question: str, ours: int, peer: int, goal: str) -> Row:
    """Compare bytes."""
    each = [f"{side / 2**20:.0f} MiB" for side in (ours, peer)]
    return Row(question, *each, *[ours / peer] * 3, goal)


def memory_of(side: str) -> int:
    """Peak memory in bytes that a side of this script needs, measured in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def print_peak(run: Callable[[], Any], device: str = "cpu") -> None:
    """Run once, and print by how many bytes memory rose at most."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        print(torch.cuda.max_memory_allocated() - before)
        return
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _memory("VmRSS")
    run()
    print(_memory("VmHWM") - before)


def memory_now() -> int:
    """Bytes that this process has in memory."""
    return _memory("VmRSS")


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return 1024 * int(found[1])


def machine() -> str:
    """What the figures were taken on."""
    packages = ("torch", "torchvision", "open_clip_torch", "timm")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{card}; "
        f"Python {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def report(rows: list[Row], given: argparse.Namespace) -> None:
    """Print the rows; unless sizes were small, write them to the table as well."""
    print(machine())
    for each in rows:
        print(f"  {each.question}")
        print(f"    ours {each.ours}, peer {each.peer}")
        spread = f"middle half {each.low:.2f} to {each.high:.2f} of {given.rounds}"
        print(f"    ratio {each.ratio:.2f} ({spread}), goal {each.goal}")
    if not given.quick:
        script = Path(sys.argv[0]).name
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        kept[script] = {
            "machine": machine(),
            "commit": _commit(),
            "load": round(os.getloadavg()[1], 1),
            "rows": [asdict(each) for each in rows],
        }
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        write_table(kept)


def _commit() -> str:
    command = ["git", "-C", str(FOLDER), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_table(kept: dict[str, Any]) -> None:
    """Put the table of all scripts' last results between its two marks."""
    lines = ["| what | ours | peer | ratio | middle half | goal | script |", "|" + "---|" * 7]
    for script, result in sorted(kept.items()):
        for each in (Row(**fields) for fields in result["rows"]):
            spread = f"{each.low:.2f} – {each.high:.2f}"
            lines.append(
                f"| {each.question} | {each.ours} | {each.peer} | **{each.ratio:.2f}** | "
                f"{spread} | {each.goal} | `{script}` |"
            )
    lines.append("")
    for script, result in sorted(kept.items()):
        where = f"{result['machine']}; commit {result['commit'] or 'unknown'}"
        lines.append(f"- `{script}`: {where}; load of the machine {result['load']}")
    fill(TABLE, lines)


def fill(file: Path, lines: list[str]) -> None:
    """Put lines between the two marks of a page."""
    text = file.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    file.write_text("\n".join([head + BEGIN, *lines, END + tail]), encoding="utf-8")
