"""The command that turns a data set of another form into an annotation file."""

from pathlib import Path

from gridclip.data.annotations.repair import Faults
from gridclip.data.forms.scenes import document_text
from gridclip.data.forms.source import Form, convert_source, form_of
from gridclip.data.forms.splits import Split
from gridclip.io.errors import InputError
from gridclip.io.files import require_writable, write_text
from gridclip.io.tables import make_console, say


def convert_command(  # noqa: PLR0913 - a command has as many options as it takes
    source: Path,
    output: Path,
    *,
    form: Form | None = None,
    split: Split | None = None,
    images: Path | None = None,
    side: Path | None = None,
    faults: Faults = "refuse",
) -> None:
    """Turn a data set of YOLO, Pascal VOC, CVAT, Open Images or LabelMe form into COCO's form.

    A row needs no such file: its data.init_args.root may be a folder of these forms that has the
    parts train and val.

    Args:
        source: Folder of the data set, or the file that says its names: data.yaml, annotations.xml
            or a csv of boxes.
        output: Json file to write; its paths are relative to the folder that is printed.
        form: What the source is; it is recognised by its files.
        split: Which part of it: train, val (or valid) or test.
        images: Folder of the images, where they do not lie as the form says.
        side: Json file of frequencies and verified absences, by name; else side.json in the source.
        faults: refuse stops at boxes and images at fault; drop leaves them out and says how many.
    """
    require_writable(output)
    if not source.exists():
        raise InputError("does not exist", fix="give a folder, or a file of names", file=source)
    found = form or form_of(source)
    if found is None:
        fix = "give a folder of YOLO, VOC, CVAT, Open Images or LabelMe, or say which: --form yolo"
        raise InputError("is of no form that is known", fix=fix, file=source)
    document, folder, told = convert_source(
        source, found, split, images=images, side=side, faults=faults
    )
    write_text(output, document_text(document))
    console = make_console()
    for line in told:
        say(console, line)
    sizes = ", ".join(
        f"{len(document[key])} {key}" for key in ("images", "annotations", "categories")
    )
    say(console, f"wrote {output}: {found}, {sizes}; file names are relative to {folder}")
