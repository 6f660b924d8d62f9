"""The command that finds objects in whatever has pixels: images, folders, videos, addresses.

Torch and the detector are imported when all arguments are known to be right, so that `--help` and
mistakes answer at once.
"""

import sys
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gridclip.engine.detect.examples import examples_of
from gridclip.engine.detect.findings import Findings
from gridclip.engine.detect.formats import chosen
from gridclip.engine.detect.pictures import Drawings, stems
from gridclip.engine.detect.report import Report
from gridclip.engine.detect.saving import SavedFindings
from gridclip.engine.detect.sources import Frame, Source, Unreadable, count, frames, planned
from gridclip.engine.detect.speed import Speed
from gridclip.engine.detect.tiles import Tiles
from gridclip.io.errors import InputError, require_at_least, require_fraction, require_positive
from gridclip.io.files import require_writable

if TYPE_CHECKING:
    from gridclip.engine.detect.finder import Finder

_SPEED = Speed()


def detect_command(  # noqa: PLR0913 - a command has as many options as it has
    images: list[str],
    *,
    run: str,
    names: str = "",
    example: str = "",
    examples: Path | None = None,
    example_weight: float = 0.5,
    output: Path = Path("detections"),
    threshold: float = 0.3,
    limit: int = 100,
    batch: int = 1,
    tiles: int = 0,
    overlap: float = 0.2,
    format: str = "",
    pictures: bool = True,
    every: int = 1,
    download_mb: float = 500.0,
    device: str = "auto",
    speed: Speed = _SPEED,
    trust: bool = False,
) -> None:
    """Find objects in images and videos: writes detections.json, and draws the boxes.

    Boxes are in pixels of the upright image, turned as its EXIF says. What was found is kept
    however the command ends; what cannot be read is named at the end, and the exit status is 1.

    Args:
        images: Image and video files, folders, patterns, 0 for a webcam, addresses of http(s).
        run: Folder of a finished training.
        names: What to look for: "red striped star, green ring", or a file of names, one a line.
        example: Boxes x1,y1,x2,y2 that show names: "my cup=a.jpg:10,20,99,80; my cup=b.jpg:…".
        examples: More of them: a file in COCO or LVIS form, its images beside it or in images/.
        example_weight: How much examples count beside the name's text, in [0, 1].
        output: Folder for the results.
        threshold: Least score, in [0, 1].
        limit: At most so many boxes in an image.
        batch: Images, or windows of one, that are searched at once.
        tiles: Search windows of so many pixels too, for small objects in large images; 0: none.
        overlap: Of neighbouring windows, as a share of their side.
        format: More files of what was found, some of: coco, yolo, csv, labelme.
        pictures: Draw the boxes: a picture of each image, a video of each video.
        every: Of a video only one frame in so many.
        download_mb: Megabytes that an address may have.
        device: Where to run it: auto, cpu, cuda, cuda:1, mps.
        speed: How to run it.
        trust: Import also classes that the run names from elsewhere, such as your own.
    """
    windows = Tiles(side=tiles, overlap=overlap, batch=batch) if tiles else None
    listed = names_of(names) if names else ()
    shown = examples_of(example, examples, listed)
    asked = Asked(listed or (*shown,), threshold, limit, batch, windows, example_weight)
    given = Given(planned(images, output), every, download_mb)
    wanted = Wanted(output, chosen(format), pictures).checked(given.sources)
    from gridclip.engine.predictor import load

    detector = load(run, device, speed, trust=trust)
    if shown:
        detector.add_examples(shown, example_weight)
    _conclude(search(detector, asked, given, wanted), len(given.sources))


def _conclude(unreadable: Sequence[str], sources: int) -> None:
    """Names what could not be read, and ends with status 1 if there is anything."""
    if unreadable:
        many = f"{len(unreadable)} of {sources} images could not be read"
        sys.stderr.write("\n".join([f"error: {many}:", *unreadable, ""]))
        sys.exit(1)


@dataclass(frozen=True)
class Asked:
    """What is looked for, and how."""

    names: Sequence[str]
    threshold: float
    limit: int
    batch: int
    tiles: Tiles | None
    example_weight: float = 0.5

    def __post_init__(self) -> None:
        if not self.names:
            fix = 'give --names "a cup, a cat", or examples of them'
            raise InputError("nothing is looked for", fix=fix, field="names")
        require_fraction(threshold=self.threshold, example_weight=self.example_weight)
        require_at_least(1, limit=self.limit, batch=self.batch)


@dataclass(frozen=True)
class Given:
    """Where it is looked for."""

    sources: list[Source]
    every: int
    download_mb: float

    def __post_init__(self) -> None:
        require_at_least(1, every=self.every)
        require_positive(download_mb=self.download_mb)

    def batches(self, size: int, unreadable: list[str]) -> Iterator[list[Frame]]:
        """Yields frames together, and adds to a list what cannot be read."""
        batch: list[Frame] = []
        for each in frames(self.sources, every=self.every, download_mb=self.download_mb):
            if isinstance(each, Unreadable):
                unreadable.append(each.problem)
                continue
            batch.append(each)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


@dataclass(frozen=True)
class Wanted:
    """Which files are written."""

    output: Path
    formats: list[str]
    pictures: bool

    def checked(self, sources: Sequence[Source]) -> "Wanted":
        """Returns itself; refuses what cannot be written of these sources, or not there.

        Raises:
            InputError: naming it.
        """
        films = [each.name for each in sources if each.kind != "image"]
        if "labelme" in self.formats and films:
            problem = f"labelme opens images, and {films[0]} is none"
            fix = "take its frames out as images first, or leave out labelme"
            raise InputError(problem, fix=fix, field="format")
        require_writable(self.output / "detections.json")
        return self


def search(detector: "Finder", asked: Asked, given: Given, wanted: Wanted) -> list[str]:
    """Searches all that is given, and returns what could not be read, with the reasons."""
    unreadable: list[str] = []
    begins = stems(given.sources, wanted.output)
    with ExitStack() as opened:
        results = opened.enter_context(SavedFindings(wanted.output, wanted.formats, asked.names))
        drawings = opened.enter_context(Drawings(wanted.output, given.every))
        report = opened.enter_context(Report(count(given.sources, given.every)))
        stream = _ahead(given.batches(asked.batch, unreadable))
        opened.enter_context(closing(stream))
        try:
            for batch in stream:
                for frame, found in zip(batch, _find(detector, batch, asked), strict=True):
                    stem = begins[frame.source]
                    results.add(frame, stem, found)
                    drawing = drawings.add(frame, stem, found) if wanted.pictures else None
                    report.add(frame, found, drawing)
        except KeyboardInterrupt:
            if given.sources[-1].kind != "camera":  # which has no other end
                raise
        report.conclude(results.file, wanted.formats)
    return unreadable


def _find(detector: "Finder", batch: Sequence[Frame], asked: Asked) -> list[Findings]:
    return detector.detect_many(
        [frame.pixels for frame in batch],
        asked.names,
        threshold=asked.threshold,
        limit=asked.limit,
        tiles=asked.tiles,
    )


def _ahead(batches: Iterator[list[Frame]]) -> Generator[list[Frame]]:
    """Yields what it is given; the next one is read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = reader.submit(next, batches, None)
            yield batch


def names_of(given: str) -> Sequence[str]:
    """Returns names that are separated by commas, or those of a file.

    Raises:
        InputError: for an empty or double name, and for a file of names that is absent or wrong.
    """
    from gridclip.data.category_names import LISTS_OF_NAMES, read_names  # which need torch
    from gridclip.structures import Vocabulary

    if "," not in given and Path(given).suffix.lower() in LISTS_OF_NAMES:
        return read_names(Path(given)).names
    return Vocabulary(name.strip() for name in given.split(",")).names
