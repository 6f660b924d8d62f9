"""Backbones: images to maps at strides 8, 16 and 32, and to one embedding of each image."""

import difflib
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gridclip.io.errors import InputError, require_range
from gridclip.io.state_dicts import load_weights
from gridclip.models.encoders.attention_pool import AttentionPool, Pooled
from gridclip.models.encoders.open_clip import ClipModel, pixels_of
from gridclip.ops.images import PixelNorm
from gridclip.structures import Images


class Backbone(nn.Module, ABC):
    """Images to feature maps.

    Attributes:
        channels: Channels of C3, C4 and C5; of C2 before them where the finest stride is 4.
        pool: Attention pool over C5, or None where the network has none (or it was dropped because
            nothing needs it).
        freeze_norm: Batch-norm statistics stay as they were loaded.
    """

    channels: tuple[int, ...]
    norm: PixelNorm
    pool: AttentionPool | None
    freeze_norm: bool

    @abstractmethod
    def maps(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """C3, C4 and C5 of normalised pixels."""

    def forward(self, images: Images) -> list[Tensor]:
        """C3, C4 and C5 of a batch: (B, channels, H / stride, W / stride), rounded up."""
        return self.maps(self.norm(images.pixels))

    def embed(self, images: Images, c5: Float[Tensor, "B C h w"]) -> Pooled | None:
        """Each image and each cell of C5 in the backbone's embedding space, if it has one."""
        return None if self.pool is None else self.pool(c5, _inside(images, c5))

    def train(self, mode: bool = True) -> "Backbone":
        """Switches the mode, but leaves frozen batch-norm statistics alone."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                learns = all(weight.requires_grad for weight in module.parameters())
                module.train(mode and learns and not self.freeze_norm)
        return self


class ClipResNet(Backbone):
    """The convolutional image tower of an open_clip model, with its attention pool kept dense.

    Args:
        clip: The model whose image tower starts the backbone.
        freeze_norm: Keep the batch-norm statistics of the tower.
        finest: Stride of the finest map: 8, or 4 for a two-stage detector that pools small regions.
    """

    def __init__(
        self, clip: ClipModel, freeze_norm: bool = True, finest: Literal[4, 8] = 8
    ) -> None:
        super().__init__()
        self.tower, self.pool, self.norm = convolutional_tower(clip)
        self.freeze_norm = freeze_norm
        width = self.pool.query.in_features
        self.indices = [1, 2, 3, 4] if finest == 4 else [2, 3, 4]
        self.channels = tuple(width // 2 ** (4 - index) for index in self.indices)

    def maps(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """C3, C4 and C5 of normalised pixels, or C2 to C5."""
        answer: dict[str, list[Tensor]] = self.tower.forward_intermediates(
            pixels, indices=self.indices, intermediates_only=True
        )
        return answer["image_intermediates"]


class TimmBackbone(Backbone):
    """Any convolutional timm model with maps at strides 8, 16 and 32.

    A model that ends in CLIP's attention pool (timm's *_clip models) keeps it.

    Args:
        name: timm's name, such as resnet50_clip.openai or tf_efficientnet_lite0.
        pretrained: Let timm download its own weights.
        weights: A file of weights, or package://NAME/FILE for one inside an installed package. Its
            tensors must fit the model by name, or one to one in order with equal shapes.
        freeze_norm: Keep the batch-norm statistics of the weights.
        freeze_at: So many stages do not learn, the stem being the first; 0 for none, 2 for the stem
            and the first stage, as detectors on pretrained networks often have it. What does not
            learn costs no backward pass.
        finest: Stride of the finest map: 8, or 4 for a two-stage detector that pools small regions.
        drop_path: How often the deepest block is left out in training (stochastic depth; the others
            less often); None leaves it to timm.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        freeze_norm: bool = True,
        freeze_at: int = 0,
        finest: Literal[4, 8] = 8,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        options = {} if drop_path is None else {"drop_path_rate": drop_path}
        model = create_timm(name, pretrained, **options)
        if weights is not None:
            load_weights(model, weights)
        self.norm = PixelNorm(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        self.freeze_norm = freeze_norm
        self.indices = _levels(model, name, (4, 8, 16, 32) if finest == 4 else (8, 16, 32))
        self.channels = tuple(model.feature_info[index]["num_chs"] for index in self.indices)
        head: Any = getattr(model, "head", None)
        ends_in_pool = head is not None and type(head).__name__ == "AttentionPool2d"
        self.pool = AttentionPool.from_timm(head) if ends_in_pool else None
        model.prune_intermediate_layers(self.indices, prune_head=True)
        _freeze_stages(model, freeze_at)
        self.tower = model

    def maps(self, pixels: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """C3, C4 and C5 of normalised pixels, or C2 to C5."""
        answer: list[Tensor] = self.tower.forward_intermediates(
            pixels, indices=self.indices, intermediates_only=True
        )
        return answer


def convolutional_tower(clip: ClipModel) -> tuple[Any, AttentionPool, PixelNorm]:
    """The image tower of an open_clip model up to layer4, its attention pool, and its pixels.

    Raises:
        InputError: if the tower is no CLIP ResNet.
    """
    model = clip.create()
    tower: Any = model.visual
    if not (hasattr(tower, "layer4") and hasattr(tower, "attnpool")):
        raise InputError(
            f"the image tower of {clip.name} is a {type(tower).__name__}, not a CLIP ResNet",
            field="backbone.clip.name",
            fix="use RN50, RN101, RN50x4 …, gridclip-mini, or TimmBackbone for other networks",
        )
    pool, (norm, _) = AttentionPool.from_open_clip(tower.attnpool), pixels_of(model)
    tower.attnpool = None
    return tower, pool, norm


def _inside(images: Images, features: Float[Tensor, "B C h w"]) -> Bool[Tensor, "B h w"]:
    """Cells of a map whose centre lies in the image, not in the padding."""
    height, width = features.shape[-2:]
    step_y, step_x = images.pixels.shape[-2] / height, images.pixels.shape[-1] / width
    y = (torch.arange(height, device=features.device) + 0.5) * step_y
    x = (torch.arange(width, device=features.device) + 0.5) * step_x
    rows, columns = y < images.sizes[:, :1], x < images.sizes[:, 1:]
    # An image thinner than half a cell still has its first row or column.
    rows[:, 0], columns[:, 0] = True, True
    return rows[:, :, None] & columns[:, None, :]


def create_timm(name: str, pretrained: bool, **options: float) -> Any:  # noqa: ANN401
    """A timm model that takes images of any size; timm is untyped.

    Raises:
        InputError: if there is no such model, or its weights cannot be had.
    """
    import timm

    # Vision transformers, and Swin, are made for one size of image by default.
    any_size = ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"strict_img_size": False})
    try:
        for settings in any_size:
            with suppress(TypeError):  # of a network that knows nothing of this
                return timm.create_model(name, pretrained, **settings, **options)
        return timm.create_model(name, pretrained, **options)
    except RuntimeError as error:
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise InputError(
            f"timm cannot make {name!r}: {error}",
            field="backbone.name",
            fix=f"did you mean {', '.join(near)}?" if near else "see timm.list_models()",
        ) from error


def _levels(model: Any, name: str, strides: tuple[int, ...]) -> list[int]:  # noqa: ANN401
    """Indices of the last map at each of the strides; timm is untyped."""
    index = {info["reduction"]: i for i, info in enumerate(model.feature_info)}
    if not set(strides) <= set(index):
        raise InputError(
            f"{name} has maps at strides {sorted(index)}, a pyramid needs {strides}",
            field="backbone.name",
            fix="use a hierarchical network, such as resnet50_clip, convnext_tiny or swin_tiny",
        )
    return [index[stride] for stride in strides]


def _freeze_stages(model: Any, count: int) -> None:  # noqa: ANN401 - timm is untyped
    from timm.models import group_parameters

    stages = group_parameters(model, model.group_matcher(coarse=True))
    require_range(count, "backbone.freeze_at", least=0, most=len(stages))
    for stage in range(count):
        for name in stages[stage]:
            model.get_parameter(name).requires_grad_(False)


def recompute_backbone(backbone: Backbone) -> None:
    """Keeps only the inputs of the blocks of a backbone's stages.

    Raises:
        InputError: if batch-norm statistics are learnt, as they would see each batch twice; or if
            no blocks are found.
    """
    if not backbone.freeze_norm:
        raise InputError(
            "batch-norm statistics would see each batch twice",
            field="recompute",
            fix="set backbone.init_args.freeze_norm=true, or recompute=false",
        )
    blocks = [
        block
        for stages in backbone.modules()
        for name, stage in stages.named_children()
        if isinstance(stage, nn.Sequential) and name.startswith(("layer", "stages", "blocks"))
        for block in stage
        # Swin's stages are a sequence themselves; their blocks are meant.
        if not hasattr(block, "blocks")
    ]
    if not blocks:
        raise InputError(
            "the backbone has no stages of blocks", field="recompute", fix="set it to false"
        )
    recompute_blocks(blocks)


def recompute_blocks(blocks: list[nn.Module]) -> None:
    """Keeps only the inputs of these modules."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def student_projection(backbone: Backbone, teacher_width: int) -> nn.Module:
    """From the student's embedding of an image to the teacher's width."""
    pool = backbone.pool
    width = backbone.channels[-1] if pool is None else pool.embed_dim
    if pool is not None and width == teacher_width:
        return nn.Identity()
    return nn.Linear(width, teacher_width)
