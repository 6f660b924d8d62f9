"""Region encoders: any box of an image to a vector in the space of the text.

An image is embedded as the region that is the whole of it, so images and regions share all
weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align

from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import convolutional_tower, create_timm
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.ops.images import PixelNorm
from gridclip.structures import Images

BATCH_NORM = "batch_norm"
"""Among the names of frozen parts: every batch norm, its scale and shift too."""


class RegionEncoder(nn.Module, ABC):
    """Images to one map each, and boxes of a map to vectors.

    Attributes:
        width: Width D of the vectors.
        channels: Channels C of the map.
        stride: Pixels of the resized image between neighbouring cells of the map.
        side: Cells along one side of a region after RoIAlign.
    """

    width: int
    channels: int
    stride: int
    side: int
    norm: PixelNorm

    @abstractmethod
    def see(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b C h w"]:
        """The maps of images of one size, of normalised pixels."""

    @abstractmethod
    def head(self, pooled: Float[Tensor, "P C side side"]) -> Float[Tensor, "P D"]:
        """Vectors of any length of regions cut out of maps."""

    def forward(self, images: Images, boxes: list[Float[Tensor, "_ 4"]]) -> Float[Tensor, "P D"]:
        """Vectors of any length of the boxes of each image, image after image: `embed` of `maps`.

        Args:
            images: The images.
            boxes: xyxy of each image, pixels of the resized image.
        """
        return self.embed(self.maps(images), boxes)

    def maps(self, images: Images) -> Float[Tensor, "B C h w"]:
        """The map of each image, its last cells repeated into its padding.

        Each image is seen without its padding, those of one size together, so that it has the
        same map in any batch.

        Deviation: in RegionCLIP's released code padding is part of the map and of whole images.
        """
        rows_of: dict[tuple[int, int], list[int]] = {}
        for row, (height, width) in enumerate(images.sizes.tolist()):
            rows_of.setdefault((height, width), []).append(row)
        found = [
            self.see(self.norm(images.pixels[rows, :, :height, :width]))
            for (height, width), rows in rows_of.items()
        ]
        height, width = (max(each.shape[axis] for each in found) for axis in (2, 3))
        padded = [
            F.pad(each, (0, width - each.shape[3], 0, height - each.shape[2]), mode="replicate")
            for each in found
        ]
        order = torch.tensor([row for rows in rows_of.values() for row in rows])
        return torch.cat(padded)[order.argsort().to(images.pixels.device)]

    def embed(
        self, maps: Float[Tensor, "B C h w"], boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P D"]:
        """Vectors of any length of the boxes of each image, image after image.

        Args:
            maps: What `maps` gave.
            boxes: xyxy of each image, pixels of the resized image; in single precision, as in
                bfloat16 one of 1000 pixels is 8 pixels wide.
        """
        pooled = roi_align(
            maps.to(boxes[0].dtype),
            boxes,
            self.side,
            spatial_scale=1 / self.stride,
            sampling_ratio=0,
            aligned=True,
        )
        return self.head(pooled)

    def train(self, mode: bool = True) -> "RegionEncoder":
        """Switches the mode; a batch norm that does not learn keeps its statistics too."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and any(w.requires_grad for w in module.parameters()))
        return self


class ClipRegions(RegionEncoder):
    """The convolutional image tower of an open_clip model, cut between layer3 and layer4.

    RegionCLIP (2112.09106): a region is resampled from the map of layer3 so that layer4 gives the
    grid on which the attention pool was trained, and no position vector is interpolated. The
    whole of an image of the tower's native size gets CLIP's own embedding. Its weights have the
    names of `ClipResNet`'s.

    Args:
        clip: The model whose image tower it is.
        freeze: What does not learn: stem, layer1 to layer4, pool, batch_norm. As published.
    """

    stride = 16

    def __init__(
        self, clip: ClipModel, freeze: tuple[str, ...] = ("stem", "layer1", BATCH_NORM)
    ) -> None:
        super().__init__()
        self.tower, self.pool, self.norm = convolutional_tower(clip)
        self.width, self.side = self.pool.embed_dim, 2 * self.pool.side
        self.channels = self.pool.query.in_features // 2
        tower: Any = self.tower
        stem = [tower.conv1, tower.bn1, tower.conv2, tower.bn2, tower.conv3, tower.bn3]
        layers = {f"layer{n}": [getattr(tower, f"layer{n}")] for n in (1, 2, 3, 4)}
        freeze_parts(self, {"stem": stem, **layers, "pool": [self.pool]}, freeze)

    def see(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b C h w"]:
        """What layer3 says, at stride 16."""
        answer: dict[str, list[Tensor]] = self.tower.forward_intermediates(
            pixels, indices=[3], stop_early=True, intermediates_only=True
        )
        return answer["image_intermediates"][0]

    def head(self, pooled: Float[Tensor, "P C side side"]) -> Float[Tensor, "P D"]:
        """layer4 and the attention pool."""
        return self.pool.image(self.tower.layer4(pooled))


class PooledRegions(RegionEncoder):
    """Any timm network: the mean of a region's tokens, normalised and projected.

    It takes vision transformers and hierarchical networks. CLIP's own in timm
    (vit_base_patch16_clip_224.openai and the like) have their projection; position vectors are
    interpolated to the image.

    Args:
        name: timm's name.
        pretrained: Let timm download its weights.
        width: Width D of a new projection; None takes the network's own.
        side: Cells along one side of a region before their mean.
        freeze: Names of the network's parts that do not learn (patch_embed, blocks.0, conv_stem
            and the like), projection, batch_norm.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        width: int | None = None,
        side: int = 4,
        freeze: tuple[str, ...] = (BATCH_NORM,),
    ) -> None:
        super().__init__()
        model = create_timm(name, pretrained)
        projection, channels = model.get_classifier(), model.feature_info[-1]["num_chs"]
        model.prune_intermediate_layers(1, prune_head=True)
        if width is not None:
            projection = nn.Linear(channels, width)
        if getattr(projection, "in_features", None) != channels:
            raise InputError(
                f"{name} has no projection of its last map",
                field="encoder.width",
                fix="give the width of a new one",
            )
        self.norm = PixelNorm(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        self.tower, self.projection, self.side = model, projection, side
        self.stride = model.feature_info[-1]["reduction"]
        self.channels, self.width = projection.in_features, projection.out_features
        parts = {part: [module] for part, module in model.named_modules() if part}
        freeze_parts(self, {**parts, "projection": [projection]}, freeze)

    def see(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b C h w"]:
        """What the last block says, before the last norm."""
        answer: list[Tensor] = self.tower.forward_intermediates(
            pixels, indices=1, norm=False, intermediates_only=True
        )
        return answer[0]

    def head(self, pooled: Float[Tensor, "P C side side"]) -> Float[Tensor, "P D"]:
        """The mean, normalised where the network normalises its tokens, and projected."""
        norm = getattr(self.tower, "norm", None) or nn.Identity()
        return self.projection(norm(pooled.mean((2, 3))))


def whole(sizes: Int[Tensor, "B 2"]) -> list[Float[Tensor, "1 4"]]:
    """The box of each image without its padding: xyxy, pixels of the resized image."""
    return list(torch.cat([torch.zeros_like(sizes), sizes.flip(1)], dim=1).float()[:, None])


def freeze_parts(
    network: nn.Module, parts: Mapping[str, Iterable[nn.Module]], names: tuple[str, ...]
) -> None:
    """Stops the learning of parts by their names, and of every batch norm by `batch_norm`.

    Raises:
        InputError: at a name that is no part, with those there are.
    """
    unknown = [name for name in names if name not in parts and name != BATCH_NORM]
    if unknown:
        known = [*(part for part in parts if part.count(".") < 2), BATCH_NORM]
        raise InputError(
            f"there is no part named {', '.join(unknown)}",
            field="freeze",
            fix=f"choose among {', '.join(known)}",
        )
    frozen = [module for name in names for module in parts.get(name, ())]
    if BATCH_NORM in names:
        kind = nn.modules.batchnorm._BatchNorm
        frozen += [module for module in network.modules() if isinstance(module, kind)]
    for module in frozen:
        module.requires_grad_(False)


_ENCODER = "detector.regions."
"""What the names of all weights begin with in the checkpoint of a region encoder's pre-training."""

_TO_VECTORS = ("pool.", "projection.")
"""From a map to vectors; a detector that makes its own has no such part."""


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Returns the weights of a region encoder; None for a checkpoint that holds anything else."""
    if not state or not all(name.startswith(_ENCODER) for name in state):
        return None
    return {name.removeprefix(_ENCODER): tensor for name, tensor in state.items()}


def load_encoder(part: nn.Module, weights: Mapping[str, Tensor], file: str | Path) -> None:
    """Loads a pre-trained region encoder into the part of a detector that sees images.

    Every tensor of the part must be there, in its shape. The encoder's pool or its projection may
    be left over; nothing else may.

    Args:
        part: A region encoder, or a backbone of the same network.
        weights: What `encoder_weights` found.
        file: Where they were read.

    Raises:
        InputError: if it is another network, with what differs.
    """
    own = part.state_dict()
    unknown = [name for name in weights if name not in own and not name.startswith(_TO_VECTORS)]
    differences = [
        [f"{name} is missing" for name in own if name not in weights],
        [f"{name} is unknown" for name in unknown],
        [
            f"{name} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    ]
    if any(differences):
        listed = "; ".join(each for kind in differences for each in kind[:8])
        raise InputError(
            "holds another network than the detector's: "
            f"{sum(map(len, differences))} tensors differ: {listed}",
            file=file,
            field="init_from",
            fix="give the backbone the CLIP, or the timm name, that was pre-trained",
        )
    part.load_state_dict({name: weights[name] for name in own})
