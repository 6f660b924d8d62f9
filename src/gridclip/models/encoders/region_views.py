"""How a frozen teacher is shown one box of an image: four views, in one place."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from gridclip.models.encoders.teachers import Teacher
from gridclip.ops.vectors import unit
from gridclip.structures import Images

RegionView = Literal["squeezed", "vild", "pasted", "roi"]
"""How a teacher sees a box.

- `squeezed`: the crop, resized to the teacher's square whatever its ratio;
- `vild`: that of the box, and of the box 1.5 times as large; the unit vectors are summed
  (ViLD, 2104.13921);
- `pasted`: the crop, its pixels unchanged, in the middle of the teacher's square, which is filled
  with the mean colour of the crop's border. A crop larger than the square is shrunk into it;
- `roi`: RoIAlign on the teacher's map of the whole image, enlarged (`Teacher.region_encoder`).
"""

VIEWS: tuple[RegionView, ...] = get_args(RegionView)

_SCALES: dict[RegionView, tuple[float, ...]] = {"squeezed": (1.0,), "vild": (1.0, 1.5)}
_ENLARGED = 2  # a map of stride 32 has one cell for most objects of an image as it is


@torch.no_grad()
def embed_regions(
    teacher: Teacher,
    images: Images,
    boxes: list[Float[Tensor, "_ 4"]],
    view: RegionView = "vild",
    *,
    batch_size: int = 64,
) -> list[Float[Tensor, "_ E"]]:
    """Unit vectors of boxes of each image, as the teacher sees them; without gradients.

    A box has the same vector in any batch, but for rounding. Of a box that leaves its image, what
    lies inside is seen: one pixel at least.

    Args:
        teacher: Loaded, on the device of the images.
        images: On any device.
        boxes: xyxy of each image, pixels of the resized image, in single precision; R of them.
        view: How the teacher is shown a box.
        batch_size: Boxes that the teacher sees at a time.

    Returns:
        R × E of each image.

    Raises:
        InputError: if the view is `roi` and the teacher has no map.
    """
    counts = [len(each) for each in boxes]
    if view == "roi":
        return list(_from_map(teacher, images, boxes, batch_size).split(counts))
    device = images.pixels.device
    rows = torch.arange(len(boxes), device=device)
    rows = rows.repeat_interleave(torch.tensor(counts, device=device))
    flat = torch.cat([torch.zeros(0, 4, device=device), *boxes])
    total = torch.zeros(len(flat), teacher.width, device=device)
    show = paste if view == "pasted" else squeeze_crops
    for scale in _SCALES.get(view, (1.0,)):
        windows = crop_windows(flat, scale, images.sizes[rows])
        for start in range(0, len(flat), batch_size):
            part = slice(start, start + batch_size)
            squares = show(images, rows[part], windows[part], teacher.side)
            total[part] += teacher.see(squares).float()
    return list(F.normalize(total, dim=-1).split(counts))


def crop_windows(
    boxes: Float[Tensor, "R 4"], scale: float, sizes: Int[Tensor, "R 2"]
) -> Int[Tensor, "R 4"]:
    """Whole pixels that a region, grown about its centre, touches; at least one.

    Args:
        boxes: xyxy, pixels of the image.
        scale: Factor on both sides.
        sizes: Height and width of each region's image.
    """
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * scale / 2
    limit = sizes.flip(1)
    low = torch.minimum((centres - half).floor().long().clamp(min=0), limit - 1)
    high = torch.minimum((centres + half).ceil().long(), limit)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1)


def squeeze_crops(
    images: Images, rows: Int[Tensor, "R"], windows: Int[Tensor, "R 4"], side: int
) -> Float[Tensor, "R 3 side side"]:
    """Resizes crops to squares, whatever their ratios.

    Args:
        images: The images.
        rows: The image of each crop.
        windows: xyxy of each crop, whole pixels of its image.
        side: Of the squares, in pixels.

    Returns:
        RGB 0–255.
    """
    crops = zip(rows.tolist(), windows.tolist(), strict=True)
    return torch.cat([_resize(_cut(images, row, window), (side, side)) for row, window in crops])


def paste(
    images: Images, rows: Int[Tensor, "R"], windows: Int[Tensor, "R 4"], side: int
) -> Float[Tensor, "R 3 side side"]:
    """Puts crops in the middle of squares that are filled with the colours of their borders.

    Args:
        images: The images.
        rows: The image of each crop.
        windows: xyxy of each crop, whole pixels of its image.
        side: Of the squares, in pixels. Larger crops are shrunk into it, their ratio kept.

    Returns:
        RGB 0–255.
    """
    large = ((windows[:, 2:] - windows[:, :2]) > side).any(1)
    squares = _place(images.pixels, rows, windows, side)
    for each in large.nonzero()[:, 0].tolist():
        crop = _cut(images, int(rows[each]), windows[each].tolist())
        height, width = crop.shape[2:]
        factor = side / max(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        window = torch.tensor([[0, 0, size[1], size[0]]], device=windows.device)
        squares[each] = _place(_resize(crop, size), rows.new_zeros(1), window, side)[0]
    return squares


def _place(
    pixels: Num[Tensor, "B 3 H W"], rows: Int[Tensor, "R"], windows: Int[Tensor, "R 4"], side: int
) -> Float[Tensor, "R 3 side side"]:
    """Gathers all crops at once, so that a GPU need not be asked once a crop."""
    extents = (windows[:, 2:] - windows[:, :2])[..., None]  # R 2 1: width, height
    steps = torch.arange(side, device=pixels.device) - (side - extents).div(
        2, rounding_mode="floor"
    )
    inside = (steps >= 0) & (steps < extents)
    edge = inside & ((steps == 0) | (steps == extents - 1))
    source = windows[:, :2, None] + torch.minimum(steps.clamp(min=0), extents - 1)
    found = pixels[rows[:, None, None], :, source[:, 1, :, None], source[:, 0, None]].float()
    whole = (inside[:, 1, :, None] & inside[:, 0, None])[..., None]
    border = whole & (edge[:, 1, :, None] | edge[:, 0, None])[..., None]
    colour = (found * border).sum((1, 2)) / border.sum((1, 2)).clamp(min=1)
    return torch.where(whole, found, colour[:, None, None]).permute(0, 3, 1, 2)


def _from_map(
    teacher: Teacher, images: Images, boxes: list[Float[Tensor, "_ 4"]], batch_size: int
) -> Float[Tensor, "P E"]:
    encoder = teacher.region_encoder()
    maps = encoder.maps(_enlarge(images))
    vectors = [torch.zeros(0, teacher.width, device=maps.device)]
    for row, (each, (height, width)) in enumerate(zip(boxes, images.sizes.tolist(), strict=True)):
        inside = clip_boxes_to_image(each, (height, width)) * _ENLARGED
        vectors += [
            unit(encoder.embed(maps[row : row + 1], [part]).float())
            for part in inside.split(batch_size)
            if len(part)
        ]
    return torch.cat(vectors)


def _enlarge(images: Images) -> Images:
    _, _, height, width = images.pixels.shape
    larger = images.pixels.new_zeros(len(images.pixels), 3, height * _ENLARGED, width * _ENLARGED)
    for row, (bottom, right) in enumerate(images.sizes.tolist()):
        size = (bottom * _ENLARGED, right * _ENLARGED)
        larger[row, :, : size[0], : size[1]] = _resize(
            images.pixels[row : row + 1, :, :bottom, :right], size
        )[0].round()
    return Images(larger, images.sizes * _ENLARGED)


def _cut(images: Images, row: int, window: list[int]) -> Num[Tensor, "1 3 h w"]:
    left, top, right, bottom = window
    return images.pixels[row : row + 1, :, top:bottom, left:right]


def _resize(pixels: Num[Tensor, "b 3 h w"], size: tuple[int, int]) -> Float[Tensor, "b 3 _ _"]:
    resized = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
    return resized.clamp(0, 255)
