"""Images with boxes drawn on them, and a sheet of what training sees."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gridclip.data.annotations.reader import read_annotations
from gridclip.data.datasets.detection import DetectionDataset
from gridclip.data.forms.place import DataPlace
from gridclip.data.sampling import SampleIndex
from gridclip.data.transforms.augment import (
    AUGMENTATION,
    TRAIN_RESIZE,
    Augmentation,
    Resize,
    TrainingTransform,
)
from gridclip.data.vocabulary import label_map
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import require_writable, written_whole
from gridclip.io.tables import make_console, say

PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


class Label(NamedTuple):
    """One box to draw."""

    box: tuple[float, float, float, float]  # xyxy, pixels of the image
    text: str


def draw(image: Image.Image, labels: Sequence[Label]) -> Image.Image:
    """Returns a copy of the image with boxes and their texts; a text always has the same colour."""
    canvas = image.convert("RGB")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(9, canvas.height // 40))
    for box, text in labels:
        colour = colour_of(text.rsplit(" ", 1)[0])
        pen.rectangle(box, outline=colour, width=max(1, canvas.height // 200))
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = max(0.0, min(box[0], canvas.width - (right - left)))
        y = max(0.0, box[1] - (bottom - top) - 2)
        pen.rectangle((x, y, x + right - left + 2, y + bottom - top + 2), fill=colour)
        pen.text((x + 1 - left, y + 1 - top), text, fill="white", font=font)
    return canvas


def colour_of(name: str) -> str:
    """Returns the colour that a name is always drawn in."""
    return PALETTE[zlib.crc32(name.encode()) % len(PALETTE)]


def side_by_side(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    """Returns rows of images on one white sheet."""
    width = max(sum(image.width + gap for image in row) for row in rows)
    height = sum(max(image.height for image in row) + gap for row in rows)
    sheet, y = Image.new("RGB", (width, height), "white"), 0
    for row in rows:
        x = 0
        for image in row:
            sheet.paste(image, (x, y))
            x += image.width + gap
        y += max(image.height for image in row) + gap
    return sheet


def show_samples(  # noqa: PLR0913 - one argument an option
    source: Path,
    images: Path | None = None,
    output: Path = Path("samples.jpg"),
    count: int = 6,
    views: int = 3,
    side: int = 320,
    seed: int = 0,
    resize: Resize = TRAIN_RESIZE,
    augmentation: Augmentation = AUGMENTATION,
) -> None:
    """Draw augmented training images with their boxes and names on one sheet.

    A row is an image that has boxes, as the augmentation shows it in the first epochs: exactly what
    training with the same seed and settings sees.

    Args:
        source: Folder of a data set, with a train.json or of YOLO or VOC form; or a file.
        images: Folder of the images; without it the folder "images" beside the annotation file.
        output: Where to write the sheet: .jpg or .png.
        count: Images, drawn by the seed.
        views: Epochs that each image is shown of.
        side: Longest side of each image on the sheet, in pixels.
        seed: Of the augmentation, and of which images are drawn.
        resize: As in training (data.init_args.resize).
        augmentation: As in training (data.init_args.augmentation).

    Raises:
        InputError: if a file is absent or wrong, or no image has a box.
    """
    require_at_least(1, count=count, views=views, side=side)
    if output.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InputError("has no image's ending", file=output, fix="end it in .jpg or .png")
    require_writable(output)
    if source.is_dir():
        annotations, folder = DataPlace(source, "train.json", "images", "train").read()
    else:
        annotations, folder = read_annotations(source), source.parent / "images"
    dataset = DetectionDataset(
        annotations,
        images or folder,
        label_map(annotations, "all"),
        TrainingTransform(resize, augmentation),
        seed=seed,
        keep_empty=False,
        mosaic=augmentation.joined,
    )
    if not len(dataset):
        raise InputError("no image has a box", file=source, fix="give a file with boxes")
    rows = np.random.default_rng(seed).permutation(len(dataset))[:count].tolist()
    draws = [[SampleIndex(row, epoch) for epoch in range(views)] for row in rows]
    sheet = side_by_side([[_image(dataset, drawn, side) for drawn in row] for row in draws])
    kind: Literal["PNG", "JPEG"] = "PNG" if output.suffix.lower() == ".png" else "JPEG"
    with written_whole(output) as part:
        sheet.save(part, kind, quality=90)
    say(make_console(), f"{output}: {len(rows)} images, {views} views of each")


def _image(dataset: DetectionDataset, drawn: SampleIndex, side: int) -> Image.Image:
    pixels, (boxes, labels, _) = dataset[drawn][:2]
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    zoom = side / max(image.size)
    small = image.resize((max(1, round(image.width * zoom)), max(1, round(image.height * zoom))))
    texts = [dataset.vocabulary.names[label] for label in labels.tolist()]
    corners = [(x1, y1, x2, y2) for x1, y1, x2, y2 in (boxes * zoom).tolist()]
    return draw(small, [Label(*pair) for pair in zip(corners, texts, strict=True)])
