"""The sheet of augmented images, drawn for a data set of two images."""

import json

import numpy as np
import pytest
from PIL import Image

from gridclip.data.drawing import show_samples
from gridclip.data.transforms.augment import Augmentation, Resize
from gridclip.io.errors import InputError

SIZE = Resize(shortest=(60,), longest=90)


@pytest.fixture
def folder(tmp_path):
    """One grey image with a box, one without."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (90, 60), (128, 128, 128)).save(tmp_path / "images" / name)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 25, 27, 30]}
    listed = {
        "images": [
            {"id": i, "height": 60, "width": 90, "file_name": name}
            for i, name in ((1, "a.png"), (2, "b.png"))
        ],
        "annotations": [box],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(listed))
    return tmp_path


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_are_drawn_where_the_augmentation_puts_them(folder, flip):
    output = folder / "deep" / "sheet.png"
    show_samples(folder, output=output, side=180, resize=SIZE, augmentation=Augmentation(flip=flip))
    sheet = np.asarray(Image.open(output)).astype(int)
    assert sheet.shape == (124, 3 * 184, 3)  # one image has boxes; three views and gaps of 4
    for view in range(3):
        coloured = (np.ptp(sheet[:120, view * 184 :][:, :180], axis=2) > 40).nonzero()
        left = 18 if flip == 0 else 180 - 72
        assert abs(coloured[1].min() - left) <= 2
        assert abs(coloured[0].max() - 110) <= 2
    assert [path.name for path in output.parent.iterdir()] == ["sheet.png"]


def test_an_annotation_file_with_a_folder_of_images_will_do(folder, tmp_path):
    (folder / "images").rename(folder / "elsewhere")
    output = folder / "sheet.jpg"
    show_samples(folder / "train.json", folder / "elsewhere", output, views=1, side=90, resize=SIZE)
    assert Image.open(output).size == (94, 64)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"count": 0}, "count: 0 is out of range"), ({"output": "sheet.txt"}, "ending")],
)
def test_impossible_wishes_are_refused_before_anything_is_read(tmp_path, wrong, message):
    if "output" in wrong:
        wrong = {"output": tmp_path / wrong["output"]}
    with pytest.raises(InputError, match=message):
        show_samples(tmp_path / "absent.json", **wrong)
