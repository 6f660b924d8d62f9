"""Images as people give them: converted by a rule or refused, never taken for something else."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gridclip.data.images.decode import read_header, read_image, read_upright
from gridclip.data.images.given import listed, pixels_of
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def refused(image):
    with pytest.raises(InputError) as caught:
        pixels_of(image)
    told = str(caught.value)
    assert told.startswith("image: ")
    return told.partition("fix: ")[2]


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (RGB.astype(np.float32) / 255, "(255 * pixels).round().astype(np.uint8)"),
        (RGB.astype(np.float64), "pixels.astype(np.uint8)"),
        (RGB.astype(np.uint16) * 257, "(pixels // 257).astype(np.uint8)"),
        (RGB.astype(np.int64), "pixels.astype(np.uint8)"),
        (RGB > 127, "uint8"),
        (RGB.transpose(2, 0, 1), "pixels.transpose(1, 2, 0)"),
        (RGB[:, :, 0], "np.stack([pixels] * 3, axis=2)"),
        (RGB[:, :, :1], "np.repeat(pixels, 3, axis=2)"),
        (np.dstack([RGB, RGB[:, :, 0]]), "pixels[:, :, :3]"),
        (RGB[None], "detect_many"),
        (RGB[0, 0, 0], "height x width x 3"),
        (RGB[:0], "a pixel or more"),
        (RGB[:, :0], "a pixel or more"),
        (torch.from_numpy(RGB).permute(2, 0, 1), "tensor.permute(1, 2, 0)"),
        (None, "a PIL image"),
        (b"\xff\xd8", "a file"),
        (RGB.tolist(), "uint8"),
        (Image.new("I;16", (9, 6)), "8 bits a channel"),
        (Image.new("F", (9, 6)), "8 bits a channel"),
        (Image.new("RGB", (0, 6)), "a pixel or more"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_what_is_no_8_bit_rgb_image_is_refused_with_what_makes_it_one(image, advice):
    assert advice in refused(image)


def test_the_advice_makes_the_same_pixels_of_every_form():
    """Each line of advice above, carried out."""
    forms = {
        "(255 * pixels).round().astype(np.uint8)": RGB.astype(np.float32) / 255,
        "(pixels // 257).astype(np.uint8)": RGB.astype(np.uint16) * 257,
        "pixels.astype(np.uint8)": RGB.astype(np.int64),
        "pixels.transpose(1, 2, 0)": RGB.transpose(2, 0, 1),
        "pixels[:, :, :3]": np.dstack([RGB, RGB[:, :, 0]]),
    }
    for advice, pixels in forms.items():
        np.testing.assert_array_equal(pixels_of(eval(advice)), RGB, strict=True)
        assert pixels.shape  # which the advice names


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_pil_image_of_8_bits_gives_what_its_file_gives(mode, tmp_path):
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(pixels_of(image), np.asarray(image.convert("RGB")))
    if mode in ("1", "L", "LA", "P", "RGBA"):
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(pixels_of(str(tmp_path / "a.png")), pixels_of(image))


def test_a_pil_image_that_is_cut_short_is_refused(tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(content, "JPEG")
    with pytest.raises(InputError, match="cannot be read"):
        pixels_of(Image.open(io.BytesIO(content.getvalue()[:700])))


def test_any_view_of_an_array_is_taken_as_it_is():
    assert pixels_of(RGB) is RGB
    np.testing.assert_array_equal(pixels_of(RGB[::-1, ::2, ::-1]), RGB[::-1, ::2, ::-1])


@pytest.mark.parametrize("image", ["a.jpg", Path("a.jpg"), Image.new("RGB", (9, 6)), RGB], ids=type)
def test_a_single_image_is_no_list_of_its_letters_or_rows(image):
    with pytest.raises(InputError, match=r"images: is one image\n  fix: give a list"):
        listed(image)
    assert listed([image]) == [image]


# What a camera that was held so stores of an upright scene, by the EXIF standard: tag 0x0112 says
# where the scene's first row and its first column lie in the file.
STORED = {
    1: lambda scene: scene,  # top, left
    2: lambda scene: scene[:, ::-1],  # top, right
    3: lambda scene: scene[::-1, ::-1],  # bottom, right
    4: lambda scene: scene[::-1],  # bottom, left
    5: lambda scene: scene.transpose(1, 0, 2),  # left, top
    6: lambda scene: scene.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda scene: scene.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda scene: scene.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


def save(scene, file, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"lossless": True} if file.suffix == ".webp" else {}
    exact |= {"quality": 100, "subsampling": 0} if file.suffix == ".jpg" else {}
    Image.fromarray(np.ascontiguousarray(scene)).save(file, exif=exif, **exact)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_photograph_is_turned_upright_and_annotated_pixels_stay_as_stored(
    tmp_path, orientation, suffix
):
    file, stored = tmp_path / f"phone{suffix}", STORED[orientation](RGB)
    save(stored, file, orientation)
    near = 12 if suffix == ".jpg" else 0
    shown = read_upright(file)
    assert np.abs(shown.pixels.astype(int) - RGB).max() <= near
    np.testing.assert_array_equal(pixels_of(file), shown.pixels)
    annotated = read_image(file)
    if suffix == ".tif":  # its orientation is a part of the format, which every reader applies
        np.testing.assert_array_equal(annotated, RGB)
    else:
        assert shown.turned == (orientation != 1)
        assert np.abs(annotated.astype(int) - stored).max() <= near
    assert annotated.shape[:2] == read_header(file, file)[:2]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, orientation):
    file = tmp_path / "odd.png"
    save(RGB, file, orientation)
    assert not read_upright(file).turned
    np.testing.assert_array_equal(read_upright(file).pixels, RGB)


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_broken_exif_costs_no_image(tmp_path, at):
    file = tmp_path / "a.jpg"
    save(RGB, file, 6)
    whole = file.read_bytes()
    start = whole.index(b"Exif\0\0") + 6
    length = int.from_bytes(whole[start - 8 : start - 6], "big") - 8
    broken = bytearray(whole)
    broken[start + at % length] ^= 0xFF
    file.write_bytes(bytes(broken))
    assert read_upright(file).pixels.size == RGB.size
