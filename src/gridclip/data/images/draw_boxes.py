"""Images with boxes drawn, and sheets of them."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


class Label(NamedTuple):
    """One box to draw."""

    box: tuple[float, float, float, float]  # xyxy, pixels of the image
    text: str


def draw(image: Image.Image, labels: Sequence[Label]) -> Image.Image:
    """A copy of the image with boxes and their texts; a text always has the same colour."""
    canvas = image.convert("RGB")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(9, canvas.height // 40))
    for box, text in labels:
        colour = PALETTE[zlib.crc32(text.rsplit(" ", 1)[0].encode()) % len(PALETTE)]
        pen.rectangle(box, outline=colour, width=max(1, canvas.height // 200))
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = max(0.0, min(box[0], canvas.width - (right - left)))
        y = max(0.0, box[1] - (bottom - top) - 2)
        pen.rectangle((x, y, x + right - left + 2, y + bottom - top + 2), fill=colour)
        pen.text((x + 1 - left, y + 1 - top), text, fill="white", font=font)
    return canvas


def side_by_side(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    """Rows of images on one white sheet."""
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
