"""How quickly does `gridclip detect` go through 1000 images in batches, and does memory stay flat?

All of the command but its start: files are read, boxes are drawn and written. Images of the mini
set, a share of them in each turn, one by one and in batches of 16; by the network of the mini row,
of a run or with random weights. Some five minutes: python benchmarks/detecting.py --run RUN
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import _timing

import gridclip
from gridclip.data.category_names import read_names
from gridclip.data.transforms.augment import Resize
from gridclip.engine.detect.command import Asked, Given, Wanted, search
from gridclip.engine.detect.finder import Finder
from gridclip.engine.detect.sources import Source, planned
from gridclip.engine.lightning_cli import build
from gridclip.engine.predictor import TrainedDetector

ROOT = Path(__file__).parents[1]
MINI = ROOT / "data" / "mini"


def main() -> None:
    given = _timing.arguments(__doc__, run="", data=str(MINI), images=1000, batch=16)
    count = 64 if given.quick else given.images
    share = count // given.rounds
    files = planned([str(Path(given.data) / "images")], ROOT)[: count + share]
    names = read_names(Path(given.data) / "val.json").names
    detector = gridclip.load(given.run, given.device) if given.run else untrained(given.data)
    memory: list[int] = []  # bytes after each turn

    def side(batch: int) -> Callable[[], object]:
        shares = iter([files[start : start + share] for start in range(0, len(files), share)])

        def turn() -> None:
            quietly(detector, Asked(names, 0.3, 100, batch, None), next(shares))
            memory.append(_timing.memory_now())

        return turn

    sides = {"batches": side(given.batch), "one by one": side(1)}
    taken = _timing.seconds(sides, given.rounds)
    question = f"detect {count} images of mini in batches of {given.batch}"
    ours, peer = taken["batches"], taken["one by one"]
    rows = [
        _timing.row(f"{question}: time of one by one", ours, peer, "≤ 0.8", faster=False),
        _timing.memory_row(
            f"{question}, then one by one: memory after all against after the first {2 * share}",
            memory[-1],
            memory[1],
            "≤ 1.05",
        ),
    ]
    _timing.report(rows, given)


def untrained(data: str) -> Finder:
    """The network of the mini row, as it is before training."""
    row = ROOT / "experiments" / "mini" / "gridclip.yaml"
    with tempfile.TemporaryDirectory() as folder:
        made = build([f"--config={row}", f"--run_dir={folder}", f"--data.init_args.root={data}"])
    return TrainedDetector(made.model.detector, Resize(shortest=(128,), longest=128))


def quietly(detector: Finder, asked: Asked, files: Sequence[Source]) -> None:
    """Search without a word on the screen, into a folder that is removed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        unread = search(detector, asked, Given([*files], 1, 1.0), Wanted(Path(folder), [], True))
    assert not unread


if __name__ == "__main__":
    main()
