"""The command that names given boxes of a picture."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gridclip.errors import InputError
from gridclip.runs import write_whole
from gridclip.trained import load


def classify_command(  # noqa: PLR0913 - a command has as many options as it has
    image: Path,
    *,
    run: Path,
    boxes: Path,
    names: str,
    output: Path | None = None,
    best: int = 3,
    device: str = "cpu",
) -> None:
    """Name boxes of a picture that you give.

    Args:
        image: Picture file.
        run: Folder of a training of RegionCLIP.
        boxes: Json file: a list of [x1, y1, x2, y2] in pixels of the picture.
        names: What they may show, separated by commas: "red striped star, green ring".
        output: Where to write every probability as json; nowhere by default.
        best: So many names of each box are shown, the likeliest.
        device: Where to run it: cpu, cuda, mps.
    """
    given = _read_boxes(boxes)
    detector = load(run, device)
    named = detector.classify(image, given, [name.strip() for name in names.split(",")])
    table = Table("box", "names", title=str(image), title_justify="left")
    for box, shown in zip(given, named, strict=True):
        likeliest = list(shown.items())[:best]
        table.add_row(str(box), ", ".join(f"{name} {share:.2f}" for name, share in likeliest))
    Console().print(table)
    if output is not None:
        rows = [{"box": box, "names": n} for box, n in zip(given, named, strict=True)]
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(json.dumps(rows, indent=2), output)


def _read_boxes(file: Path) -> list[Any]:
    """Whatever list the file holds; `classify` tells whether it is of boxes."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", file=file, fix="give a json file") from error
    if not isinstance(given, list):
        raise InputError("holds no list", file=file, fix="give [[x1, y1, x2, y2], ...]")
    return given
