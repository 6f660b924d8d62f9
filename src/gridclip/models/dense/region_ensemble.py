"""What a frozen image tower says of a dense detector's boxes, in its scores."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from gridclip.io.errors import require_range
from gridclip.models.encoders.open_clip import Frozen
from gridclip.models.encoders.region_encoders import RegionEncoder
from gridclip.models.two_stage.roi_head import BranchWeights, geometric_mean
from gridclip.ops.vectors import require_same_width, unit
from gridclip.structures import Images


class RegionEnsemble(nn.Module):
    """A second opinion on every candidate box, at inference only; nothing is trained.

    A score is s^(1-w) · p^w, where s is the detector's own and p the probability of the name among
    all names, by the cosine of the region's vector with text: the geometric mean of ViLD-ensemble
    (2104.13921) and of F-VLM (2209.15639, recalled), which sees regions by a frozen tower as here.

    Deviation: GridCLIP runs one network at inference. This is another pass of another tower, so it
    is off unless asked for.

    Args:
        regions: The frozen tower, in the space of the detector's text vectors.
        weight: w of names that were trained on.
        novel_weight: w of the others, which the detector knows less well.
        temperature: What cosines are divided by; 0.01 for a CLIP.
    """

    def __init__(
        self,
        regions: RegionEncoder,
        weight: float = 0.35,
        novel_weight: float = 0.65,
        temperature: float = 0.01,
    ) -> None:
        super().__init__()
        require_range(weight, "ensemble.weight", least=0, most=1)
        require_range(novel_weight, "ensemble.novel_weight", least=0, most=1)
        require_range(temperature, "ensemble.temperature", above=0)
        self.regions, self.width = Frozen(regions), regions.width
        self.weight, self.novel_weight, self.temperature = weight, novel_weight, temperature

    def check(self, width: int) -> None:
        """Refuses text vectors of another width than the tower's.

        Raises:
            InputError: with both widths.
        """
        require_same_width(self.width, width, field="ensemble.regions")

    @torch.no_grad()
    def forward(
        self,
        images: Images,
        boxes: list[Float[Tensor, "_ 4"]],
        scores: list[Float[Tensor, "_ K"]],
        text: Float[Tensor, "K D"],
        base: Bool[Tensor, "K"],
    ) -> list[Float[Tensor, "_ K"]]:
        """Scores of the detector and the tower together.

        Args:
            images: The images.
            boxes: xyxy of each image, pixels of the resized image.
            scores: The detector's own, in [0, 1], of every name in each box.
            text: Unit vector of each name.
            base: Names that the detector was trained on.
        """
        sizes = images.sizes.tolist()
        clipped = [
            clip_boxes_to_image(each, (height, width))
            for each, (height, width) in zip(boxes, sizes, strict=True)
        ]
        with torch.autocast(text.device.type, enabled=False):
            vectors = unit(self.regions(images, clipped))
            seen = (vectors @ text.mT / self.temperature).softmax(-1)
        weights = BranchWeights(1 - self.weight, 1 - self.novel_weight)
        parts = zip(scores, seen.split([len(each) for each in boxes]), strict=True)
        return [geometric_mean(own, second, base, weights) for own, second in parts]
