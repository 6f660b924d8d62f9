"""What was found, as other tools read it: COCO results, YOLO text, CSV, LabelMe.

CSV grows by lines; YOLO and LabelMe have a file an image; COCO's two files are made of all rows.
hotcoco and supervision write annotations, without scores, of a whole data set at once; so these
small writers are our own.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gridclip.engine.detect.findings import Found
from gridclip.io.errors import InputError
from gridclip.io.files import write_text, written_whole


class Row(NamedTuple):
    """One image or frame, and what was found in it."""

    name: str  # of the frame
    source: str  # of the image or video
    frame: int | None  # of a video, from 0
    width: int  # pixels
    height: int
    found: list[Found]  # best first

    def to_json(self) -> dict[str, Any]:
        """Returns it as json has it."""
        return self._asdict() | {"found": [each._asdict() for each in self.found]}


Rows = Callable[[], Iterable[dict[str, Any]]]
"""Reads all rows so far, as `Row.to_json` makes them."""


class Format:
    """Files of one form; each kind does its part of the three steps.

    Args:
        output: Folder of the results.
        names: What is looked for.
    """

    def __init__(self, output: Path, names: Sequence[str]) -> None:
        self.output, self.names = output, list(names)
        self.label = {name: label for label, name in enumerate(names)}

    def add(self, row: Row, stem: str) -> None:
        """Writes what can be written at once; `stem` is what files of the source begin with."""

    def make_whole(self, rows: Rows) -> None:
        """Writes what is made of all rows so far."""

    def close(self) -> None:
        """Ends the writing."""


class Csv(Format):
    """`detections.csv`: a line an object; boxes in pixels of the upright image."""

    HEAD = ("image", "frame", "name", "score", "x1", "y1", "x2", "y2", "width", "height")

    def __init__(self, output: Path, names: Sequence[str]) -> None:
        super().__init__(output, names)
        self._file = (output / "detections.csv").open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file)
        self._csv.writerow(self.HEAD)

    def add(self, row: Row, stem: str) -> None:
        """Writes its objects."""
        for name, score, box in row.found:
            self._csv.writerow([row.source, row.frame, name, score, *box, row.width, row.height])
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Coco(Format):
    """`coco_results.json`, and `coco_images.json` with the images and categories of its ids."""

    def make_whole(self, rows: Rows) -> None:
        """Writes both; ids count from 1, images in their order, categories in that of the names."""
        write_entries(self.output / "coco_results.json", self._results(rows()))
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.names)]
        rest = json.dumps({"annotations": [], "categories": categories})[1:]
        images = self.output / "coco_images.json"
        write_entries(images, self._images(rows()), before='{"images": [', after=f"], {rest}")

    @staticmethod
    def _images(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
        for number, row in enumerate(rows, 1):
            size = {"width": row["width"], "height": row["height"]}
            yield json.dumps({"id": number, "file_name": row["name"], **size})

    def _results(self, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
        for number, row in enumerate(rows, 1):
            for each in row["found"]:
                x1, y1, x2, y2 = each["box"]
                ids = {"image_id": number, "category_id": self.label[each["name"]] + 1}
                box = [x1, y1, x2 - x1, y2 - y1]
                known = {"bbox": box, "score": each["score"]}
                if "segmentation" in each:
                    known["segmentation"] = each["segmentation"]
                yield json.dumps({**ids, **known})


class Yolo(Format):
    """`labels/STEM.txt`, of a video `labels/STEM/000012.txt`; `data.yaml` has the names.

    A line is a label from 0, the centre's x and y, width and height as shares of the image's, and
    the score: what ultralytics writes with save_conf.
    """

    def __init__(self, output: Path, names: Sequence[str]) -> None:
        super().__init__(output, names)
        lines = [f"  {label}: {json.dumps(name)}" for label, name in enumerate(names)]
        write_text(output / "data.yaml", "\n".join(["names:", *lines, ""]))

    def add(self, row: Row, stem: str) -> None:
        """Writes the file of an image, an empty one where nothing was found."""
        lines = []
        for name, score, (x1, y1, x2, y2) in row.found:
            across, down = (x1 + x2) / 2 / row.width, (y1 + y2) / 2 / row.height
            sides = (x2 - x1) / row.width, (y2 - y1) / row.height
            figures = " ".join(f"{each:.6f}" for each in (across, down, *sides, score))
            lines.append(f"{self.label[name]} {figures}\n")
        write_text(self.output / "labels" / f"{_file_of(row, stem)}.txt", "".join(lines))


class LabelMe(Format):
    """`labelme/STEM.json`: rectangles to correct by hand; the image stays where it is."""

    def add(self, row: Row, stem: str) -> None:
        """Writes the file of an image.

        Raises:
            InputError: for a frame of a video, of which there is no file to open.
        """
        file = self.output / "labelme" / f"{_file_of(row, stem)}.json"
        path = row.source if "://" in row.source else _relative(row.source, file.parent)
        shapes: list[dict[str, Any]] = [
            {
                "label": name,
                "points": [[x1, y1], [x2, y2]],
                "group_id": None,
                "description": f"{score:.3f}",
                "shape_type": "rectangle",
                "flags": {},
                "mask": None,
            }
            for name, score, (x1, y1, x2, y2) in row.found
        ]
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": path}
        size = {"imageData": None, "imageHeight": row.height, "imageWidth": row.width}
        write_text(file, json.dumps(content | size, indent=2))


FORMATS: dict[str, type[Format]] = {"coco": Coco, "yolo": Yolo, "csv": Csv, "labelme": LabelMe}


def chosen(formats: str) -> list[str]:
    """Returns the forms that a list names, such as "coco, csv"; of an empty one none.

    Raises:
        InputError: naming one that there is not.
    """
    names = [each.strip().lower() for each in formats.split(",") if each.strip()]
    for name in names:
        if name not in FORMATS:
            fix = f"give some of {', '.join(FORMATS)}"
            raise InputError(f"{name!r} is no form of results", fix=fix, field="format")
    return [*dict.fromkeys(names)]


def make_format(name: str, output: Path, names: Sequence[str]) -> Format:
    """Returns what writes a form."""
    return FORMATS[name](output, names)


def write_entries(
    file: Path, entries: Iterable[str], *, before: str = "[", after: str = "]"
) -> None:
    """Writes entries of json between two texts, each on its line; the file appears whole."""
    with written_whole(file) as part, part.open("w", encoding="utf-8") as out:
        out.write(before)
        for number, entry in enumerate(entries):
            out.write(f"{',' * bool(number)}\n{entry}")
        out.write(f"\n{after}\n")


def _file_of(row: Row, stem: str) -> str:
    return stem if row.frame is None else f"{stem}/{row.frame:06}"


def _relative(image: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return str(Path(image).resolve())
