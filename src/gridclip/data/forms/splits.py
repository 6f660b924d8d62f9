"""The parts of a data set by their usual names, and the image files of a folder."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn

from gridclip.data.images.decode import is_image
from gridclip.io.errors import InputError

Split = Literal["train", "val", "test"]

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017"),
    "test": ("test", "testing", "test2017"),
}
"""What tools call the parts; Roboflow says valid, where most say val."""


def split_of(name: str) -> Split | None:
    """Returns which part a folder, a file or a key is of, by its name; None if of none."""
    stem = name.lower().removesuffix(".txt").removesuffix(".json")
    return next((split for split, names in SPLIT_NAMES.items() if stem in names), None)


def split_folders(root: Path) -> dict[Split, Path]:
    """Returns the folders of parts right under a root."""
    found: dict[Split, Path] = {}
    for entry in sorted(root.iterdir()) if root.is_dir() else ():
        split = split_of(entry.name)
        if split and entry.is_dir():
            found.setdefault(split, entry)
    return found


def refuse_split(source: Path, split: str, known: Iterable[str]) -> NoReturn:
    """Says that a data set has no such part, and which it has.

    Raises:
        InputError: always.
    """
    has = ", ".join(known) or "none"
    fix = f"name the folder (or list) of images by the part: {split}; it has {has}"
    raise InputError(f"has no part {split!r}", fix=fix, file=source, field="split")


def require_choice(source: Path, known: Iterable[str]) -> None:
    """Refuses a data set of several parts where none was asked for.

    Raises:
        InputError: naming them.
    """
    names = [*known]
    if names:
        fix = f"say which: --split {names[0]}"
        raise InputError(f"has the parts {', '.join(names)}", fix=fix, file=source, field="split")


def files_under(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Yields the files under a folder in the order of their paths; links to folders are followed.

    Args:
        folder: However deep.
        suffixes: In small letters, as in ".txt"; without any, images are yielded.
    """
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            wanted = name.lower().endswith(suffixes) if suffixes else is_image(name)
            if wanted and not name.startswith("."):
                found.append(Path(parent, name))
    yield from sorted(found, key=lambda file: file.as_posix())


def relative(file: Path, folder: Path) -> str | None:
    """Returns the path of a file as a data set lists it; None if it is not in the folder."""
    try:
        path = Path(os.path.normpath(file)).relative_to(os.path.normpath(folder))
    except ValueError:
        return None
    return path.as_posix()


class ImageIndex:
    """The images under a folder, found by what annotations call them.

    Args:
        folder: Where to look, however deep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = [path for each in files_under(folder) if (path := relative(each, folder))]
        self._whole = set(self.paths)
        self._stems: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        for path in self.paths:
            pure = PurePosixPath(path)
            self._stems.setdefault(pure.with_suffix("").as_posix(), []).append(path)
            for key in {pure.name, pure.stem}:
                self._names.setdefault(key, []).append(path)

    def find(self, said: str, beside: str = "") -> str | None:
        """Returns the one image that is meant; None if none is, or it could be several.

        Args:
            said: A file name, with folders or without, with an ending or without.
            beside: Folder, relative to that of the images, of what says it.
        """
        said = said.replace("\\", "/")
        for path in (os.path.normpath(f"{beside}/{said}"), os.path.normpath(said)):
            if path in self._whole:
                return path
            for key in (path, PurePosixPath(path).with_suffix("").as_posix()):
                if len(self._stems.get(key, ())) == 1:
                    return self._stems[key][0]
        pure = PurePosixPath(said)
        for key in (pure.name, pure.stem):
            if len(self._names.get(key, ())) == 1:
                return self._names[key][0]
        return None
