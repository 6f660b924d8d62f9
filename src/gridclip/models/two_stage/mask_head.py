"""The mask branch: from a pooled region to the object in it, whatever its name."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from gridclip.io.errors import require_range
from gridclip.models.two_stage.roi_head import Norm, RegionPool, norm_of
from gridclip.structures import Detections, Images, Record


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How heavy the mask branch is; the defaults are Mask R-CNN's with a pyramid (1703.06870).

    Args:
        num_convs: Convolutions of 3 x 3 over a region.
        side: Cells along one side of a pooled region; a mask has twice as many.
    """

    num_convs: int = 4
    side: int = 14

    def __post_init__(self) -> None:
        require_range(self.num_convs, "mask_head.num_convs", least=0)
        require_range(self.side, "mask_head.side", least=1)


class MaskHead(nn.Module):
    """Convolutions, a deconvolution that doubles the side, and one logit a cell for all names.

    Args:
        width: Channels of the pyramid.
        strides: Pixels of the resized image between neighbouring cells of each level.
        canonical: Side in pixels of a region that is pooled from the level of stride 16.
        settings: How heavy.
        norm: As in the head of names.
    """

    def __init__(
        self,
        width: int,
        strides: tuple[int, ...],
        canonical: float,
        settings: MaskSettings,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.pool = RegionPool(strides, settings.side, canonical)
        layers: list[nn.Module] = []
        for _ in range(settings.num_convs):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [conv, norm_of(norm, width), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(width, width, 2, stride=2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    @property
    def side(self) -> int:
        """Cells along one side of a mask."""
        return 2 * self.pool.side

    def forward(
        self, levels: list[Tensor], boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P side side"]:
        """Returns logits of the cells of the regions of all images, image after image.

        Args:
            levels: Pyramid, finest first.
            boxes: xyxy of each image, pixels of the resized image.
        """
        logits: Tensor = self.layers(self.pool(levels, boxes))
        return logits[:, 0].float()

    def complete(
        self, levels: list[Tensor], found: list[Detections], images: Images, records: list[Record]
    ) -> list[Detections]:
        """Returns detections with their masks, which are looked at in the boxes that leave.

        Args:
            levels: Pyramid of these images.
            found: Of each image, in pixels of the original image.
            images: Whose sizes say how the originals were resized.
            records: Where each image comes from.
        """
        boxes, sizes = [], images.sizes.tolist()
        for each, (height, width), record in zip(found, sizes, records, strict=True):
            scale = each.boxes.new_tensor([width / record.width, height / record.height])
            boxes.append(each.boxes * scale.repeat(2))
        masks = self(levels, boxes).sigmoid().split([len(each) for each in boxes])
        return [each._replace(masks=mask) for each, mask in zip(found, masks, strict=True)]
