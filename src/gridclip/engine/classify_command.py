"""The command that names boxes of an image that are given."""

import json
from pathlib import Path
from typing import Any

from gridclip.data.images.decode import read_upright
from gridclip.engine.detect.command import names_of
from gridclip.engine.predictor import load_run
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import require_writable, write_text
from gridclip.io.json_table import read_json
from gridclip.io.tables import WholeTable, make_console


def classify_command(  # noqa: PLR0913 - a command has as many options as it has
    image: Path,
    *,
    run: str,
    boxes: Path,
    names: str,
    output: Path | None = None,
    best: int = 3,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Name boxes of an image that you give.

    Args:
        image: Image file; it is turned upright, as its EXIF orientation says.
        run: Folder of a training of RegionCLIP, or hf://user/name of a shared one.
        boxes: Json file: a list of [x1, y1, x2, y2] in pixels of the upright image.
        names: What they may show: "red striped star, green ring", or a file of names, one a line.
        output: Where to write every probability as json; nowhere by default.
        best: So many names of each box are shown, the likeliest.
        device: Where to run it: auto, cpu, cuda, cuda:1, mps.
        trust: Import also classes that the run names from elsewhere, such as your own.
    """
    require_at_least(1, best=best)
    if output is not None:
        require_writable(output)
    given, vocabulary = _read_boxes(boxes), names_of(names)
    detector, photograph = load_run(run, device, trust=trust), read_upright(image)
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


def _read_boxes(file: Path) -> list[Any]:
    """Returns the list that the file holds; `classify` checks that it is of boxes."""
    given = read_json(file)
    if not isinstance(given, list):
        raise InputError("holds no list", file=file, fix="give [[x1, y1, x2, y2], ...]")
    return given
