"""How quickly does `gridclip detect` go through 1000 images in batches, and does memory stay flat?

All of the command but its start: files are read, boxes are drawn and written. Images of the mini
set, one by one and in batches of 16 in turn, by the network of the mini row: of a run, or with
random weights. Some five minutes: python benchmarks/detecting.py --run RUN
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
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
THRESHOLD = 0.3


def main() -> None:
    given = _timing.arguments(__doc__, run="", data=str(MINI), images=1000, batch=16)
    count = 64 if given.quick else given.images
    sources = planned([str(Path(given.data) / "images")], ROOT / "detections")[:count]
    names = read_names(Path(given.data) / "val.json").names
    detector = gridclip.load(given.run, given.device) if given.run else untrained(given.data)

    def side(batch: int, files: list[Source]) -> Callable[[], object]:
        return lambda: quietly(detector, Asked(names, THRESHOLD, 100, batch, None), files)

    if given.memory:
        _timing.print_peak(side(given.batch, sources[: int(given.memory)]), given.device)
        return
    sides = {"batches": side(given.batch, sources), "one by one": side(1, sources)}
    taken = _timing.seconds(sides, given.rounds)
    what = f"detect {count} images of mini"
    rows = [
        _timing.row(
            f"{what} in batches of {given.batch}: time of one by one",
            taken["batches"],
            taken["one by one"],
            "≤ 0.8",
            faster=False,
        ),
        _timing.memory_row(
            f"{what}: peak memory of the first {count // 5}",
            _timing.memory_of(str(count)),
            _timing.memory_of(str(count // 5)),
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


def quietly(detector: Finder, asked: Asked, sources: list[Source]) -> None:
    """Search without a word on the screen, into a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder, silence():
        unread = search(detector, asked, Given(sources, 1, 1.0), Wanted(Path(folder), [], True))
    assert not unread


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


if __name__ == "__main__":
    main()
