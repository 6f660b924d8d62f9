"""Small folders of other forms."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def photograph():
    """Writes an image of one colour, 100 x 50 unless it is said."""

    def write(file: Path, size: tuple[int, int] = (100, 50)) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        endings = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
        Image.new("RGB", size, (9, 99, 199)).save(file, endings[file.suffix.lower()])
        return file

    return write


@pytest.fixture
def yolo(tmp_path, photograph):
    """Writes a YOLO folder of one image, images/a.jpg of 100 x 50, with these lines."""

    def write(lines="0 0.5 0.5 0.2 0.4\n", setup="names: [cat, dog]\n", image="a.jpg"):
        photograph(tmp_path / "images" / image)
        if lines is not None:
            labels = (tmp_path / "labels" / image).with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(lines)
        (tmp_path / "data.yaml").write_text(setup)
        return tmp_path

    return write
