"""An ImageNet classifier in CLIP's place: it knows images, and CLIP's text says what it knows."""

import hashlib
import json
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gridclip.io.errors import InputError
from gridclip.io.state_dicts import load_weights, weights_file
from gridclip.models.encoders.backbones import create_timm
from gridclip.models.encoders.open_clip import Frozen
from gridclip.models.encoders.region_encoders import BATCH_NORM, RegionEncoder, freeze_parts, whole
from gridclip.models.encoders.teachers import Teacher
from gridclip.models.encoders.text import TextBank
from gridclip.ops.images import PixelNorm
from gridclip.ops.vectors import unit
from gridclip.structures import Images

_PROBE = 96  # pixels: the side of an image that shows what the network makes of one


class ClassifierRegions(RegionEncoder):
    """Any convolutional ImageNet classifier of timm, for regions, in the space of text.

    A region's vector is the mean of the text vectors of its classes, each weighted by its
    probability (ConSE, 1312.5650, recalled). It stands where CLIP's own image weights are out of
    reach: the text vectors are CLIP's, what is seen is ImageNet's. A class without a text vector is
    left out.

    Deviation: ConSE takes the ten likeliest classes; here all count, so that nothing jumps.

    Args:
        name: timm's name of a classifier of ImageNet: 1k, 12k, 21k or 22k.
        text: Words to vectors. A class has several words ("hand blower", "hair drier"); its vector
            is the mean of theirs.
        pretrained: Let timm download its own weights.
        weights: A file of weights, as in `TimmBackbone`.
        side: Cells along one side of a region before their mean.
        freeze: Names of the network's parts that do not learn, batch_norm among them.

    Raises:
        InputError: if the network is no convolutional classifier of ImageNet, its weights or a
            part to freeze are not there, or the text knows none of its classes.
    """

    vectors: Tensor

    def __init__(
        self,
        name: str,
        text: TextBank,
        pretrained: bool = False,
        weights: str | None = None,
        side: int = 3,
        freeze: tuple[str, ...] = (BATCH_NORM,),
    ) -> None:
        super().__init__()
        self.tower: Any = create_timm(name, pretrained)
        if weights is not None:
            load_weights(self.tower, weights)
        self.norm = PixelNorm(self.tower.pretrained_cfg["mean"], self.tower.pretrained_cfg["std"])
        self.register_buffer("vectors", _class_vectors(self.tower, name, text), persistent=False)
        self.stride = self.tower.feature_info[-1]["reduction"]
        self.channels, self.width, self.side = _map_channels(self, name), text.width, side
        parts = {part: [module] for part, module in self.tower.named_modules() if part}
        freeze_parts(self, parts, freeze)
        self.train()  # the probe switched it

    def see(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b C h w"]:
        """The map that the classifier takes the mean of."""
        seen: Tensor = self.tower.forward_features(pixels)
        return seen

    def head(self, pooled: Float[Tensor, "P C side side"]) -> Float[Tensor, "P D"]:
        """Mean of the classes' text vectors by their probabilities."""
        probabilities = self.tower.forward_head(pooled).float().softmax(-1)
        return probabilities @ self.vectors


class ClassifierTeacher(Teacher):
    """The same of whole images: a frozen teacher where CLIP's own image weights are out of reach.

    Args:
        name: As in ClassifierRegions.
        text: As in ClassifierRegions.
        pretrained: As in ClassifierRegions.
        weights: As in ClassifierRegions.

    Raises:
        InputError: at `load`, as ClassifierRegions.
    """

    def __init__(
        self, name: str, text: TextBank, pretrained: bool = False, weights: str | None = None
    ) -> None:
        super().__init__()
        self.name, self.text, self.pretrained, self.weights = name, text, pretrained, weights

    def load(self) -> None:
        """Builds the classifier with its weights."""
        regions = ClassifierRegions(self.name, self.text, self.pretrained, self.weights)
        self.width, self.regions = regions.width, Frozen(regions)
        self.side = regions.tower.pretrained_cfg["input_size"][-1]

    def fingerprint(self) -> str:
        """The network, its weights and the vectors of its classes."""
        file = None if self.weights is None else weights_file(self.weights)
        content = "timm" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
        return json.dumps([self.name, content, self.text.fingerprint()])

    @torch.no_grad()
    def see(self, squares: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B E"]:
        """Unit vectors of squares of the size that the network was trained on, RGB 0-255."""
        encoder = self.region_encoder()
        return unit(encoder.head(encoder.see(encoder.norm(squares))))

    def region_encoder(self) -> RegionEncoder:
        """The classifier of regions."""
        network: RegionEncoder = self.regions.network  # type: ignore[assignment]
        return network

    def own_text(self) -> TextBank:
        """The text that its classes are named by."""
        return self.text

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each image."""
        return unit(self.regions(images, whole(images.sizes)))


def _class_vectors(tower: Any, name: str, text: TextBank) -> Float[Tensor, "K D"]:  # noqa: ANN401
    """Unit vector of every class, zero where the text knows none of its words.

    Raises:
        InputError: if the network's classes have no names, or the text knows none of them.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(tower)
    if not subset:
        raise InputError(
            f"{name} has {tower.num_classes} outputs that are no classes of ImageNet",
            field="regions.name",
            fix="name a classifier; a CLIP is an encoder of regions by ClipRegions",
        )
    about = ImageNetInfo(subset)
    classes = [about.index_to_description(row).split(", ") for row in range(tower.num_classes)]
    words = text.say([word for each in classes for word in each])
    means = torch.stack([part.mean(0) for part in words.split([len(each) for each in classes])])
    if not means.any():
        raise InputError(
            f"the text knows none of the {len(classes)} classes of {name}",
            field="regions.text",
            fix="give vectors of everyday names, such as LVIS's, by NounVectors",
        )
    return F.normalize(means, dim=-1)


@torch.no_grad()
def _map_channels(regions: ClassifierRegions, name: str) -> int:
    """Channels of the map, of a network whose map is one.

    Raises:
        InputError: if the network returns tokens, or channels last.
    """
    model, side = regions.tower.eval(), _PROBE // regions.stride
    seen = model.forward_features(torch.zeros(1, 3, _PROBE, _PROBE))
    if seen.ndim != 4 or seen.shape[2:] != (side, side):
        raise InputError(
            f"{name} makes no map of an image but {tuple(seen.shape)}",
            field="regions.name",
            fix="name a convolutional network, such as resnet50, convnext_tiny or efficientnet_b0",
        )
    channels: int = seen.shape[1]
    return channels
