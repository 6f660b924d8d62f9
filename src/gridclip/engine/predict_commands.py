"""The commands that run a trained detector on images: detect objects, or name given boxes."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from gridclip.data.drawing import Label, draw
from gridclip.data.images.decode import read_image
from gridclip.engine.predictor import Found, Speed, load
from gridclip.io.errors import InputError
from gridclip.io.files import require_writable, write_text
from gridclip.io.json_table import read_json
from gridclip.io.tables import WholeTable, make_console, say

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
    require_writable(output / "detections.json")
    console = make_console()
    detector = load(run, device, speed, trust=trust)
    vocabulary = _names(names)
    results: dict[str, list[dict[str, Any]]] = {}
    for file in images:
        found = detector.detect(file, vocabulary, threshold=threshold, limit=limit)
        results[str(file)] = [each._asdict() for each in found]
        drawn = output / f"{file.stem}-detected.png"
        _draw(Image.fromarray(read_image(file)), found).save(drawn)
        say(console, f"{file}: {len(found)} found, drawn in {drawn}")
    write_text(output / "detections.json", json.dumps(results, indent=2))
    say(console, f"boxes (xyxy, pixels): {output / 'detections.json'}")


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
        image: Image file.
        run: Folder of a training of RegionCLIP.
        boxes: Json file: a list of [x1, y1, x2, y2] in pixels of the image.
        names: What they may show, separated by commas: "red striped star, green ring".
        output: Where to write every probability as json; nowhere by default.
        best: So many names of each box are shown, the likeliest.
        device: Where to run it: cpu, cuda, mps.
        trust: Import also classes that the run names from elsewhere, such as your own.
    """
    if output is not None:
        require_writable(output)
    given = _read_boxes(boxes)
    detector = load(run, device, trust=trust)
    named = detector.classify(image, given, _names(names))
    table = WholeTable(("box", "names"), left=("box", "names"), title=str(image))
    for box, shown in zip(given, named, strict=True):
        likeliest = list(shown.items())[:best]
        table.add_row(str(box), ", ".join(f"{name} {share:.2f}" for name, share in likeliest))
    make_console().print(table)
    if output is not None:
        rows = [{"box": box, "names": n} for box, n in zip(given, named, strict=True)]
        write_text(output, json.dumps(rows, indent=2))


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
