"""Boxes that show what a name means: of a file in COCO or LVIS form, or of a command's words."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gridclip.data.images.given import ImageLike
from gridclip.io.errors import InputError

_FORM = '"my cup=photo.jpg:10,20,200,180", several with ; between them'
_WORDS = re.compile(r"\s*(?P<name>[^=]+?)\s*=\s*(?P<image>.+):(?P<box>[^:]*)")


class Example(NamedTuple):
    """A box that shows what a name means.

    A file is turned upright, as its EXIF orientation says, as it is where things are found in it.
    """

    image: ImageLike  # a file, a PIL image, or RGB pixels, as for `detect`
    box: Sequence[float | int]  # xyxy, pixels of the image; of a file, of the upright image


Examples = dict[str, list[Example]]
"""Examples of each name."""


def by_image(
    examples: Mapping[str, Sequence[Example]],
) -> list[tuple[ImageLike, list[tuple[str, Sequence[float | int]]]]]:
    """Returns each image once, with the names and boxes of what it shows.

    Raises:
        InputError: at a name without an example.
    """
    found: dict[object, tuple[ImageLike, list[tuple[str, Sequence[float | int]]]]] = {}
    for name, shown in examples.items():
        if not shown:
            raise InputError(f"{name!r} has no example", fix="give a box", field="examples")
        for image, box in shown:
            key = str(image) if isinstance(image, str | Path) else id(image)
            found.setdefault(key, (image, []))[1].append((name, box))
    return [*found.values()]


def examples_of(words: str, file: Path | None, names: Sequence[str]) -> Examples:
    """Returns the examples that a command is given.

    Args:
        words: Each as "name=image:x1,y1,x2,y2", with ; between them; empty for none.
        file: A json file in COCO or LVIS form, with its images beside it or in `images`.
        names: What is looked for; none: whatever there is an example of.

    Raises:
        InputError: for what is no example, an absent image, and an example of a name that is not
            looked for; of a file only if it has none of the names.
    """
    spoken, listed = list(_of_words(words)), list(_of_file(file)) if file else []
    wanted = {*names}
    strange = [name for name, _ in spoken if names and name not in wanted]
    if strange:
        raise InputError(
            f"{strange[0]!r} is not looked for",
            field="example",
            fix=f"add it to --names, or write one of these: {', '.join(names)}",
        )
    found = Examples()
    for name, example in [*spoken, *listed]:
        if not names or name in wanted:
            found.setdefault(name, []).append(example)
    if file and not {name for name, _ in listed} & {*found}:
        known = ", ".join(sorted({name for name, _ in listed})[:5]) or "none at all"
        raise InputError(
            "has no box of a name that is looked for",
            file=file,
            field="examples",
            fix=f"look for some of its names: {known}",
        )
    return found


def _of_words(words: str) -> Iterator[tuple[str, Example]]:
    for each in filter(str.strip, words.split(";")):
        matched = _WORDS.fullmatch(each.strip())
        box = _numbers(matched["box"]) if matched else []
        if matched is None or len(box) != 4:
            raise InputError(
                f"{each.strip()!r} is no example", fix=f"write {_FORM}", field="example"
            )
        image = Path(matched["image"].strip())
        _require([image], None, "example")
        yield matched["name"], Example(image, box)


def _numbers(given: str) -> list[float]:
    try:
        return [float(number) for number in given.split(",")]
    except ValueError:
        return []


def _of_file(file: Path) -> Iterator[tuple[str, Example]]:
    """Yields the boxes of a file; of several of one name in one image, each."""
    from gridclip.data.annotations.reader import read_annotations

    if not file.is_file():
        fix = "give a json file in COCO or LVIS form"
        raise InputError("is not there", file=file, field="examples", fix=fix)
    found = read_annotations(file)
    folder = file.parent / "images" if (file.parent / "images").is_dir() else file.parent
    shown = [row for row in range(len(found.paths)) if len(found.labels.of(row))]
    _require((folder / found.paths[row] for row in shown), file, "examples")
    for row in shown:
        for label, box in zip(found.labels.of(row), found.boxes.of(row), strict=True):
            yield found.categories[label].name, Example(folder / found.paths[row], box.tolist())


def _require(images: Iterable[Path], file: Path | None, field: str) -> None:
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]} is not there",
            file=file,
            field=field,
            fix="give the image that the box is of; those of a file lie beside it, or in images/",
        )
