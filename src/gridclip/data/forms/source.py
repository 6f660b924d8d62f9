"""Which form a data set has, and how to read it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gridclip.data.annotations.repair import Faults
from gridclip.data.forms.cvat import cvat_file, read_cvat
from gridclip.data.forms.labelme import is_labelme, read_labelme
from gridclip.data.forms.open_images import boxes_file, read_open_images
from gridclip.data.forms.scenes import Findings, Scenes, to_document
from gridclip.data.forms.side_file import SIDE_FILE, add_side_file, read_side_file
from gridclip.data.forms.splits import Split
from gridclip.data.forms.voc import is_voc, read_voc
from gridclip.data.forms.yolo import read_yolo, setup_file
from gridclip.io.errors import InputError

logger = logging.getLogger(__name__)

Form = Literal["yolo", "voc", "cvat", "open_images", "labelme"]

_Reader = Callable[[Path, Split | None, Path | None, Findings], Scenes]


class _Kind(NamedTuple):
    recognises: Callable[[Path], object]
    read: _Reader


# In this order: a folder of LabelMe may hold a yaml, one of CVAT is known by its one file.
_KINDS: dict[Form, _Kind] = {
    "cvat": _Kind(cvat_file, read_cvat),
    "yolo": _Kind(setup_file, read_yolo),
    "voc": _Kind(is_voc, read_voc),
    "open_images": _Kind(boxes_file, read_open_images),
    "labelme": _Kind(is_labelme, read_labelme),
}


class Converted(NamedTuple):
    """A data set in COCO or LVIS form."""

    document: dict[str, Any]
    folder: Path  # of the images
    told: list[str]  # a line for each kind of thing that was left out or read otherwise


def form_of(source: Path) -> Form | None:
    """Returns the form of a file or folder by what is in it; None if it is none of these."""
    return next((form for form, kind in _KINDS.items() if kind.recognises(source)), None)


def convert_source(
    source: Path,
    form: Form,
    split: Split | None = None,
    *,
    images: Path | None = None,
    side: Path | None = None,
    faults: Faults = "refuse",
) -> Converted:
    """Reads a data set of another form.

    Args:
        source: Its folder, or the file that says the names.
        form: What it is.
        split: Which part of it; None if it has none.
        images: Folder of the images, where the form does not find them itself.
        side: What the form cannot say, by name; else `side.json` in the folder, if it is there.
        faults: Whether boxes and images at fault are refused, or left out and told.

    Raises:
        InputError: if anything in it cannot be trusted.
    """
    findings = Findings()
    scenes = _KINDS[form].read(source, split, images, findings)
    told = findings.settle(source, faults)
    if not scenes.images:
        raise InputError("every image is at fault", fix="mend the data set", file=source)
    document = to_document(scenes)
    beside = (source if source.is_dir() else source.parent) / SIDE_FILE
    file = side or (beside if beside.is_file() else None)
    if file is not None:
        document = add_side_file(document, read_side_file(file, scenes.names))
    return Converted(document, scenes.folder, told)
