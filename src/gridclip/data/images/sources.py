"""Which kind of source of images without boxes a path is."""

from pathlib import Path

from gridclip.data.images.image_list import CAPTIONS, ImageList, annotated, captioned, class_folder
from gridclip.data.images.shards import INDEX, open_shards
from gridclip.io.errors import InputError

_KINDS = (
    "give a folder with a subfolder per class, a folder with captions.txt or captions.jsonl, a "
    "captions file, an annotation file (.json), or tar shards: their folder, or a-{000..127}.tar"
)


def open_images(source: Path, images: Path | None = None) -> ImageList:
    """Open images without boxes, whatever form they come in.

    Args:
        source: A folder with one subfolder per class; a captions file (.txt or .csv with the head
            image,caption, or .jsonl), or a folder with one; an annotation file of LVIS or COCO
            form, whose boxes are not looked at; tar shards in WebDataset's layout.
        images: What the paths in a captions or annotation file are relative to; by default the
            folder `images` beside the file, or else the file's own folder.

    Raises:
        InputError: if it is none of these, or something in it is missing or wrong.
    """
    if source.suffix == ".tar" or (source / INDEX).is_file():
        return open_shards(source)
    if source.is_dir():
        return _open_folder(source, images)
    if not source.is_file():
        raise InputError("does not exist", fix=_KINDS, file=source)
    if source.suffix not in (".txt", ".csv", ".jsonl", ".json"):
        raise InputError("is no source of images", fix=_KINDS, file=source)
    return (annotated if source.suffix == ".json" else captioned)(source, _beside(source, images))


def _open_folder(folder: Path, images: Path | None) -> ImageList:
    captions = [folder / name for name in CAPTIONS if (folder / name).is_file()]
    if len(captions) > 1:
        names = " and ".join(file.name for file in captions)
        raise InputError(f"holds {names}", fix="name the one you mean", file=folder)
    if captions:
        return captioned(captions[0], _beside(captions[0], images))
    if any(not file.name.startswith(".") for file in folder.glob("*.tar")):
        return open_shards(folder)
    return class_folder(folder)


def _beside(file: Path, images: Path | None) -> Path:
    usual = file.parent / "images"
    return images or (usual if usual.is_dir() else file.parent)
