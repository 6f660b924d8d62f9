"""What training sees: a sheet of augmented images with their boxes."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from rich.console import Console

from gridclip.data.annotations.reader import read_annotations
from gridclip.data.datasets.detection import DetectionDataset
from gridclip.data.images.draw_boxes import Label, draw, side_by_side
from gridclip.data.sampling import SampleIndex
from gridclip.data.transforms.augment import Augmentation, Resize, TrainingTransform
from gridclip.data.vocabulary import label_map
from gridclip.io.errors import InputError

_RESIZE = Resize(shortest=(640, 672, 704, 736, 768, 800), longest=1333)
_AUGMENTATION = Augmentation()


def show_samples(
    source: Path,
    images: Path | None = None,
    output: Path = Path("samples.jpg"),
    count: int = 6,
    views: int = 3,
    side: int = 320,
    seed: int = 0,
    resize: Resize = _RESIZE,
    augmentation: Augmentation = _AUGMENTATION,
) -> None:
    """Draw augmented training images with their boxes and names on one sheet.

    A row is an image that has boxes; its images are what chance makes of it in the first epochs,
    exactly as training with the same seed and settings sees them.

    Args:
        source: Folder of a data set, with a train.json, or an annotation file.
        images: Folder of the images; without it the folder "images" beside the annotation file.
        output: Where to write the sheet: .jpg or .png.
        count: Images, drawn by the seed.
        views: Images of each image.
        side: Longest side of each image on the sheet, in pixels.
        seed: Of the augmentation, and of which images are drawn.
        resize: As in training (data.init_args.resize).
        augmentation: As in training (data.init_args.augmentation).

    Raises:
        InputError: if a file is absent or wrong, or no image has a box.
    """
    for field, value in (("count", count), ("views", views), ("side", side)):
        if value < 1:
            raise InputError(f"{value} is below 1", field=field, fix="give 1 or more")
    if output.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InputError("has no image's ending", file=output, fix="end it in .jpg or .png")
    file = source / "train.json" if source.is_dir() else source
    annotations = read_annotations(file)
    dataset = DetectionDataset(
        annotations,
        images or file.parent / "images",
        label_map(annotations, "all"),
        TrainingTransform(resize, augmentation),
        seed=seed,
        keep_empty=False,
        mosaic=augmentation.joined,
    )
    if not len(dataset):
        raise InputError("no image has a box", file=file, fix="give a file with boxes")
    rows = np.random.default_rng(seed).permutation(len(dataset))[:count].tolist()
    draws = [[SampleIndex(row, epoch) for epoch in range(views)] for row in rows]
    sheet = side_by_side([[_image(dataset, drawn, side) for drawn in row] for row in draws])
    _save(sheet, output)
    Console().print(f"{output}: {len(rows)} images, {views} views of each")


def _image(dataset: DetectionDataset, drawn: SampleIndex, side: int) -> Image.Image:
    pixels, (boxes, labels) = dataset[drawn][:2]
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    zoom = side / max(image.size)
    small = image.resize((max(1, round(image.width * zoom)), max(1, round(image.height * zoom))))
    texts = [dataset.vocabulary.names[label] for label in labels.tolist()]
    corners = [(x1, y1, x2, y2) for x1, y1, x2, y2 in (boxes * zoom).tolist()]
    return draw(small, [Label(*pair) for pair in zip(corners, texts, strict=True)])


def _save(sheet: Image.Image, output: Path) -> None:
    """Write whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    kind: Literal["PNG", "JPEG"] = "PNG" if output.suffix.lower() == ".png" else "JPEG"
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    sheet.save(unfinished, kind, quality=90)
    unfinished.replace(output)
