"""Where a data set lies, and the one place where that becomes an annotation file and its images.

A root holds LVIS- or COCO-form files, or is a folder of another form. Such a folder is converted
into the cache, once for each state of its files:

    $GRIDCLIP_CACHE/converted/<hash of path, part and the times of all files>/<root>/<part>.json
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gridclip.data.annotations.reader import read_folder
from gridclip.data.annotations.repair import Faults
from gridclip.data.annotations.schema import Rules
from gridclip.data.annotations.table import Annotations
from gridclip.data.forms.scenes import document_text
from gridclip.data.forms.source import Form, convert_source, form_of
from gridclip.data.forms.splits import Split, split_of
from gridclip.io.errors import InputError
from gridclip.io.files import cache_folder, write_text

_FORMAT = 1  # raise it when a reader changes what it makes of the same files

logger = logging.getLogger(__name__)


class PlacedAnnotations(NamedTuple):
    """Annotations, and where their images are."""

    annotations: Annotations
    images: Path


class DataPlace(NamedTuple):
    """One annotation file of a data set and its images, as a configuration names them.

    Nothing is read before `read`.
    """

    root: Path
    file: str  # relative to root; of a root of another form, only a part's name counts
    images: str  # folder of the images, likewise
    split: Split  # what it is for, and so the part that is taken of a root of another form

    @property
    def annotations(self) -> Path:
        """The annotation file that a root of LVIS or COCO form has."""
        return self.root / self.file

    def read(
        self,
        faults: Faults = "refuse",
        folder: str | None = None,
        rules: Rules = "training",
        *,
        masks: bool = False,
    ) -> PlacedAnnotations:
        """Reads the annotations as `read_annotations` does, whatever their form.

        Args:
            faults: What to do where they are at fault.
            folder: Keep only the images that lie here.
            rules: What they are read for.
            masks: Read the objects' masks too.

        Raises:
            InputError: if anything in them cannot be trusted, or there are none; or if masks are
                asked for of another form than LVIS or COCO, of which boxes alone are read.
        """
        form = None if self.annotations.is_file() else form_of(self.root)
        if form is None:
            found = read_folder(self.annotations, faults, folder, rules, masks=masks)
            return PlacedAnnotations(found, self.root / self.images)
        if masks:
            problem = f"is of {form} form, of which boxes are read and no masks"
            fix = "set masks to false, or give a data set of LVIS or COCO form"
            raise InputError(problem, fix=fix, file=self.root, field="masks")
        split = split_of(Path(self.file).name) or self.split
        file, images = converted(self.root, form, split, faults)
        return PlacedAnnotations(read_folder(file, faults, folder, rules), images)


def converted(root: Path, form: Form, split: Split, faults: Faults) -> tuple[Path, Path]:
    """Returns a data set of another form as an annotation file, and the folder of its images.

    Raises:
        InputError: if anything in it cannot be trusted.
    """
    digest = hashlib.sha256(f"{_FORMAT} {form} {split} {faults}\n".encode())
    for line in _state(root.absolute()):
        digest.update(os.fsencode(line))
    home = cache_folder() / "converted" / digest.hexdigest()[:32]
    # Figures name their data set by the last folder and the file, as in mine/val.
    file, note = home / root.absolute().name / f"{split}.json", home / "converted.json"
    if not (file.is_file() and note.is_file()):
        document, images, told = convert_source(root, form, split, faults=faults)
        write_text(file, document_text(document))
        note_text = {"root": str(root), "images": str(images.absolute()), "told": told}
        write_text(note, json.dumps(note_text))
    known = json.loads(note.read_text(encoding="utf-8"))
    logger.info("%s: %s, part %s, read as %s", root, form, split, file)
    for line in known["told"]:
        logger.warning("%s: %s", root, line)
    return file, Path(known["images"])


def _state(root: Path) -> Iterator[str]:
    """Yields a line a file under a root, which changes with its path, size and time."""
    yield f"{root}\n"
    for parent, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            try:
                found = path.stat()
            except OSError:
                continue
            yield f"{path} {found.st_size} {found.st_mtime_ns}\n"
