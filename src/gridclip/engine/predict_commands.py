"""The commands that run a trained detector on images: detect objects, or name given boxes."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gridclip.data.drawing import Label, draw
from gridclip.data.images.decode import read_upright
from gridclip.engine.predictor import Found, Speed, load
from gridclip.io.errors import InputError, require_at_least, require_fraction
from gridclip.io.files import require_writable, write_text, written_whole
from gridclip.io.json_table import read_json
from gridclip.io.tables import WholeTable, make_console, say
from gridclip.structures import Vocabulary

_SPEED = Speed()


def detect_command(  # noqa: PLR0913 - a command has as many options as it has
    images: list[Path],
    *,
    run: Path,
    names: str,
    output: Path = Path("detections"),
    threshold: float = 0.3,
    limit: int = 100,
    device: str = "cpu",
    speed: Speed = _SPEED,
    trust: bool = False,
) -> None:
    """Find objects in images: writes detections.json and a copy of each image with boxes drawn.

    Images are turned upright, as their EXIF orientation says, and boxes are in pixels of the
    upright image. What was found is kept, however the command ends; an image that cannot be read is
    named at the end, and the exit status is then 1.

    Args:
        images: Image files.
        run: Folder of a finished training.
        names: What to look for, separated by commas: "red striped star, green ring".
        output: Folder for the results.
        threshold: Least score, in [0, 1].
        limit: At most so many boxes in an image.
        device: Where to run it: cpu, cuda, mps.
        speed: How to run it.
        trust: Import also classes that the run names from elsewhere, such as your own.
    """
    require_fraction(threshold=threshold)
    require_at_least(1, limit=limit)
    vocabulary = Vocabulary(_names(names)).names
    require_writable(output / "detections.json")
    detector, console = load(run, device, speed, trust=trust), make_console()
    drawings, unreadable = _drawings(images, output), []
    with _Results(output / "detections.json") as results:
        for image, drawing in drawings.items():
            try:
                photograph = read_upright(image)
            except InputError as error:
                unreadable.append(str(error))
                continue
            found = detector.detect(photograph.pixels, vocabulary, threshold=threshold, limit=limit)
            results.add(str(image), found)
            with written_whole(drawing) as part:
                _draw(Image.fromarray(photograph.pixels), found).save(part, "PNG")
            turned = ", turned upright as its EXIF says" * photograph.turned
            say(console, f"{image}{turned}: {len(found)} found, drawn in {drawing}")
    say(console, f"boxes (xyxy, pixels of the upright image): {results.file}")
    if unreadable:
        many = f"{len(unreadable)} of {len(drawings)} images could not be read"
        sys.stderr.write("\n".join([f"error: {many}:", *unreadable, ""]))
        sys.exit(1)


class _Results:
    """Boxes by image, in a json file that is on the disk soon after each image.

    Whatever ends the block, the file is written then.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._found = file, dict[str, list[dict[str, Any]]]()
        self._due = 0.0

    def __enter__(self) -> "_Results":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, image: str, found: list[Found]) -> None:
        """Adds an image, and writes the file where that costs a twentieth of the time at most."""
        self._found[image] = [each._asdict() for each in found]
        began = time.monotonic()
        if began >= self._due:
            self._write()
            self._due = began + 1 + 20 * (time.monotonic() - began)

    def _write(self) -> None:
        write_text(self.file, json.dumps(self._found, indent=2))


def _drawings(images: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Names the drawing of each image: no two alike, even where capitals make no difference.

    The second image of a name gets -2, and no drawing takes the place of an image that is given.
    """
    folder = output.resolve()
    taken = {image.name.casefold() for image in images if image.parent.resolve() == folder}
    given: Counter[str] = Counter()  # how often a stem was met, so that a thousand alike are quick
    drawings: dict[Path, Path] = {}
    for image in dict.fromkeys(images):
        name = ""
        while not name or name.casefold() in taken:
            given[image.stem.casefold()] += 1
            number = given[image.stem.casefold()]
            name = f"{image.stem}-detected{f'-{number}' * (number > 1)}.png"
        taken.add(name.casefold())
        drawings[image] = output / name
    return drawings


def classify_command(  # noqa: PLR0913 - a command has as many options as it has
    image: Path,
    *,
    run: Path,
    boxes: Path,
    names: str,
    output: Path | None = None,
    best: int = 3,
    device: str = "cpu",
    trust: bool = False,
) -> None:
    """Name boxes of an image that you give.

    Args:
        image: Image file; it is turned upright, as its EXIF orientation says.
        run: Folder of a training of RegionCLIP.
        boxes: Json file: a list of [x1, y1, x2, y2] in pixels of the upright image.
        names: What they may show, separated by commas: "red striped star, green ring".
        output: Where to write every probability as json; nowhere by default.
        best: So many names of each box are shown, the likeliest.
        device: Where to run it: cpu, cuda, mps.
        trust: Import also classes that the run names from elsewhere, such as your own.
    """
    require_at_least(1, best=best)
    if output is not None:
        require_writable(output)
    given, vocabulary = _read_boxes(boxes), Vocabulary(_names(names)).names
    detector, photograph = load(run, device, trust=trust), read_upright(image)
    named = detector.classify(photograph.pixels, given, vocabulary)
    if output is not None:
        rows = [{"box": box, "names": n} for box, n in zip(given, named, strict=True)]
        write_text(output, json.dumps(rows, indent=2))
    title = f"{image}{', turned upright as its EXIF says' * photograph.turned}"
    table = WholeTable(("box", "names"), left=("box", "names"), title=title)
    for box, shown in zip(given, named, strict=True):
        likeliest = list(shown.items())[:best]
        table.add_row(str(box), ", ".join(f"{name} {share:.2f}" for name, share in likeliest))
    make_console().print(table)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


def _read_boxes(file: Path) -> list[Any]:
    """Returns the list that the file holds; `classify` checks that it is of boxes."""
    given = read_json(file)
    if not isinstance(given, list):
        raise InputError("holds no list", file=file, fix="give [[x1, y1, x2, y2], ...]")
    return given


def _draw(image: Image.Image, found: list[Found], side: int = 512) -> Image.Image:
    """Draws boxes; a small image is enlarged a whole number of times, so that words fit in."""
    zoom = max(1, side // max(image.size))
    large = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    labels = []
    for name, score, (x1, y1, x2, y2) in found:
        box = (x1 * zoom, y1 * zoom, x2 * zoom, y2 * zoom)
        labels.append(Label(box, f"{name} {score:.2f}"))
    return draw(large, labels)
