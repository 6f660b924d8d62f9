"""Views of boxes, against one crop at a time cut and filled in by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from gridclip.data.synthetic.painter import Kind, draw_scene
from gridclip.io.errors import InputError
from gridclip.models.encoders.imagenet_classifier import ClassifierTeacher
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import ClipRegions
from gridclip.models.encoders.region_views import VIEWS, crop_windows, embed_regions, paste
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.encoders.text import TextBank
from gridclip.structures import Images

KIND = Kind("red", "striped", "star")
BOXES = [
    torch.tensor([[3.3, 5.0, 40.0, 61.5], [60, 70, 90, 200], [0, 0, 3, 3], [20, 20, 20, 20]]),
    torch.zeros(0, 4),
    torch.tensor([[0.0, 2.0, 150.0, 90.0], [10, 10, 90, 60]]),  # larger than the teacher's square
]


@pytest.fixture(scope="module")
def teacher():
    teacher = ClipTeacher(ClipModel())
    teacher.load()
    return teacher


@pytest.fixture(scope="module")
def images():
    """Three images of other sizes, the last one wider than the teacher's square of 128."""
    pixels = torch.full(
        (3, 3, 96, 160), 77, dtype=torch.uint8
    )  # what is in the padding is not seen
    sizes = torch.tensor([[80, 90], [64, 64], [96, 160]])
    for row, (height, width) in enumerate(sizes.tolist()):
        scene = draw_scene(np.random.default_rng(row), [KIND], size=160)
        pixels[row, :, :height, :width] = torch.from_numpy(scene.pixels[:height, :width]).permute(
            2, 0, 1
        )
    return Images(pixels, sizes)


def _crop(images, row, box, scale=1.0):
    """By hand: the whole pixels that a box touches, grown about its centre; RGB, h × w × 3."""
    (height, width), (x1, y1, x2, y2) = images.sizes[row].tolist(), box.tolist()
    grow_x, grow_y = (x2 - x1) * (scale - 1) / 2, (y2 - y1) * (scale - 1) / 2
    left, top = max(0, int(np.floor(x1 - grow_x))), max(0, int(np.floor(y1 - grow_y)))
    right, bottom = min(width, int(np.ceil(x2 + grow_x))), min(height, int(np.ceil(y2 + grow_y)))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    return images.pixels[row, :, top:bottom, left:right].permute(1, 2, 0).numpy()


def _canvas(crop, side):
    """By hand: a crop in the middle of a square of its border's mean colour."""
    if max(crop.shape[:2]) > side:
        factor = side / max(crop.shape[:2])
        size = [round(factor * length) for length in crop.shape[:2]]
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
        small = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
        crop = small[0].clamp(0, 255).permute(1, 2, 0).numpy()
    height, width, _ = crop.shape
    ring = [
        crop[y, x]
        for y in range(height)
        for x in range(width)
        if y in (0, height - 1) or x in (0, width - 1)
    ]
    canvas = np.tile(np.mean(ring, axis=0, dtype=np.float64), (side, side, 1))
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = crop
    return canvas.astype(np.float32)


def _seen(teacher, pixels):
    """By hand: what the teacher says of one picture alone."""
    whole = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    square = F.interpolate(
        whole.float(), size=(teacher.side, teacher.side), mode="bicubic", antialias=True
    )
    return teacher.see(square.clamp(0, 255))[0]


def _looked_at(teacher, images, row, box, view):
    """By hand: one box."""
    if view == "pasted":
        return _seen(teacher, _canvas(_crop(images, row, box), teacher.side))
    if view == "roi":
        height, width = images.sizes[row].tolist()
        whole = images.pixels[row : row + 1, :, :height, :width].float()
        larger = F.interpolate(
            whole, size=(2 * height, 2 * width), mode="bicubic", antialias=True
        ).clamp(0, 255)
        encoder = ClipRegions(ClipModel()).eval()
        seen = encoder.see(encoder.norm(larger.round()))
        inside = torch.minimum(box, torch.tensor([width, height, width, height]))
        cells = roi_align(seen, [2 * inside[None]], encoder.side, 1 / 16, 0, aligned=True)
        return F.normalize(encoder.head(cells)[0], dim=0)
    scales = {"squeezed": [1.0], "vild": [1.0, 1.5]}[view]
    total = sum(_seen(teacher, _crop(images, row, box, scale)) for scale in scales)
    return F.normalize(total, dim=0)


@pytest.mark.parametrize("view", VIEWS)
@torch.no_grad()
def test_a_view_shows_the_teacher_what_a_loop_over_boxes_does(teacher, images, view):
    found = embed_regions(teacher, images, BOXES, view)
    assert [tuple(each.shape) for each in found] == [(4, 128), (0, 128), (2, 128)]
    for row, boxes in enumerate(BOXES):
        for box, mine in zip(boxes, found[row], strict=True):
            torch.testing.assert_close(
                mine, _looked_at(teacher, images, row, box, view), atol=2e-5, rtol=0
            )


@pytest.mark.parametrize("view", VIEWS)
def test_a_box_is_seen_alike_in_any_batch(teacher, images, view):
    many = embed_regions(teacher, images, BOXES, view)
    few = embed_regions(teacher, images, BOXES, view, batch_size=1)
    alone = embed_regions(teacher, Images(*(part[2:] for part in images)), BOXES[2:], view)
    for one, two in (*zip(many, few, strict=True), (many[2], alone[0])):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=0)
    torch.testing.assert_close(many[2].norm(dim=1), torch.ones(2))
    assert not many[2].requires_grad
    none = embed_regions(teacher, images, [torch.zeros(0, 4)] * 3, view)
    assert [tuple(each.shape) for each in none] == [(0, 128)] * 3


def test_a_pasted_crop_keeps_its_pixels_and_is_surrounded_by_the_colour_of_its_border():
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    pixels[0, :, 2:5, 3:6] = torch.tensor([10, 20, 30])[:, None, None]  # the border, but for its
    pixels[0, :, 3, 4] = 200  # middle
    images = Images(pixels, torch.tensor([[8, 8]]))
    square = paste(images, torch.tensor([0]), torch.tensor([[3, 2, 6, 5]]), 7)[0]
    expected = torch.tensor([10.0, 20, 30])[:, None, None].repeat(1, 7, 7)
    expected[:, 3, 3] = 200
    assert torch.equal(square, expected)


def test_windows_hold_every_pixel_a_region_touches_and_stay_in_the_image():
    boxes = torch.tensor([[2.2, 3.0, 6.0, 9.9], [-5, -5, 3, 3], [10, 10, 10, 10], [30, 30, 50, 60]])
    sizes = torch.full((4, 2), 40)
    assert crop_windows(boxes, 1.0, sizes).tolist() == [
        [2, 3, 6, 10],
        [0, 0, 3, 3],
        [10, 10, 11, 11],
        [30, 30, 40, 40],
    ]
    # Twice as large: 3.8 x 6.9 about (4.1, 6.45).
    assert crop_windows(boxes[:1], 2.0, sizes[:1]).tolist() == [[0, 0, 8, 14]]
    beyond = torch.tensor([[50.0, 50, 60, 60]])
    assert crop_windows(beyond, 1.0, torch.tensor([[40, 30]])).tolist() == [[29, 39, 30, 40]]


class _Words(TextBank):
    """One word alone has a vector."""

    width = 4

    def encode(self, vocabulary):
        return torch.tensor(
            [[1.0, 0, 0, 0] if n == "zebra" else [0.0] * 4 for n in vocabulary.names]
        )

    def fingerprint(self):
        return "words"


@torch.no_grad()
def test_a_classifier_sees_boxes_in_every_view(images):
    teacher = ClassifierTeacher("test_resnet", _Words())
    teacher.load()
    assert teacher.side == 160
    for view in VIEWS:
        found = embed_regions(teacher, images, BOXES, view)
        assert [tuple(each.shape) for each in found] == [(4, 4), (0, 4), (2, 4)]
    squares = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    whole = teacher(Images(squares, torch.tensor([[160, 160]] * 2)))
    torch.testing.assert_close(teacher.see(squares.float()), whole)


def test_a_transformer_has_no_map_to_read_boxes_from(images):
    teacher = ClipTeacher(ClipModel(name="ViT-S-32-alt", weights="random"))
    teacher.load()
    assert embed_regions(teacher, images, BOXES, "pasted")[0].shape[0] == 4
    with pytest.raises(InputError, match=r"teacher: ClipTeacher of ViT-S-32-alt makes no map"):
        embed_regions(teacher, images, BOXES, "roi")
