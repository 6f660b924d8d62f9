"""The second stage: from a pooled region to a vector, a better box, and scores of names."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align

from gridclip.io.errors import require_range
from gridclip.ops.vectors import unit


class RegionPool(nn.Module):
    """RoIAlign (1703.06870) on the level that fits a region's size (1612.03144, Eq. 1).

    torchvision's `MultiScaleRoIAlign`, but for three things: strides are given and not guessed from
    the first batch; sampling points are not shifted by half a pixel (`aligned`); every level is
    asked, even for no region, so that each has a gradient in each process.

    Args:
        strides: Pixels of the resized image between neighbouring cells of each level.
        side: Cells along one side of the answer.
        canonical: Side in pixels of a region that belongs to the level of stride 16; smaller ones
            belong to finer levels.
    """

    def __init__(self, strides: tuple[int, ...], side: int = 7, canonical: float = 224.0) -> None:
        super().__init__()
        self.strides, self.side, self.canonical = strides, side, canonical

    def forward(
        self, levels: list[Tensor], boxes: list[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "P C side side"]:
        """Pools the regions of each image from the first `len(strides)` levels.

        Args:
            levels: Pyramid, finest first.
            boxes: xyxy of each image, pixels of the resized image.
        """
        images = torch.arange(len(boxes), device=levels[0].device)
        owner = images.repeat_interleave(
            torch.tensor([len(b) for b in boxes], device=images.device)
        )
        regions = torch.cat([owner[:, None].to(boxes[0].dtype), torch.cat(boxes)], dim=1)
        level_of = self.level_of(regions[:, 1:])
        rows = [(level_of == level).nonzero().squeeze(1) for level in range(len(self.strides))]
        pooled = [
            roi_align(
                # Coordinates stay exact: in bfloat16 one of 1000 pixels is 8 pixels wide.
                level.to(regions.dtype),
                regions[here],
                self.side,
                spatial_scale=1 / stride,
                sampling_ratio=2,
                aligned=True,
            )
            for level, here, stride in zip(levels, rows, self.strides, strict=False)
        ]
        return torch.cat(pooled)[torch.cat(rows).argsort()]

    def level_of(self, boxes: Float[Tensor, "P 4"]) -> Int[Tensor, "P"]:
        """Which level each region is pooled from."""
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        strides = 16 * sides / self.canonical
        level = (strides / self.strides[0]).clamp(min=1e-6).log2().add(1e-6).floor().long()
        return level.clamp(0, len(self.strides) - 1)


Norm = Literal["batch", "group"]


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """How heavy the second stage is; the defaults are ViLD's released configuration.

    Args:
        num_convs: Convolutions of 3 x 3 over a region.
        num_fcs: Fully connected layers behind them, at least one.
        fc_width: Width of these.
        side: Cells along one side of a pooled region.
        norm: `batch` as published (with --trainer.sync_batchnorm=true over processes), `group`
            where batches are small.
    """

    num_convs: int = 4
    num_fcs: int = 2
    fc_width: int = 1024
    side: int = 7
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        least = {"num_convs": 0, "num_fcs": 1, "fc_width": 8, "side": 1}
        for field, bound in least.items():
            require_range(getattr(self, field), f"head.{field}", least=bound)


class RegionOutput(NamedTuple):
    """What the head says of each of P regions."""

    embeddings: Float[Tensor, "P D"]  # unit length
    offsets: Float[Tensor, "P 4"] | None  # from the region to its object's box


class RegionHead(nn.Module):
    """Convolutions, fully connected layers, a projection to the text's space, class-agnostic boxes.

    Args:
        width: Channels of the pyramid.
        embed_dim: Width D of the text vectors.
        settings: How heavy.
        boxes: Whether it refines boxes too.
    """

    def __init__(
        self, width: int, embed_dim: int, settings: HeadSettings, *, boxes: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(settings.num_convs):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [conv, norm_of(settings.norm, width), nn.ReLU(inplace=True)]
        layers.append(nn.Flatten())
        last = width * settings.side**2
        for _ in range(settings.num_fcs):
            layers += [nn.Linear(last, settings.fc_width), nn.ReLU(inplace=True)]
            last = settings.fc_width
        self.tower = nn.Sequential(*layers)
        self.project = nn.Linear(last, embed_dim)
        self.box = nn.Linear(last, 4) if boxes else None
        if self.box is not None:
            nn.init.normal_(self.box.weight, std=0.001)
            nn.init.zeros_(self.box.bias)

    def forward(self, pooled: Float[Tensor, "P C side side"]) -> RegionOutput:
        """Embeds and refines pooled regions."""
        features = self.tower(pooled)
        offsets = None if self.box is None else self.box(features).float()
        return RegionOutput(unit(self.project(features)), offsets)


def norm_of(kind: Norm, width: int) -> nn.Module:
    """Returns the normalisation of a kind for so many channels, in groups of eight."""
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(max(1, width // 8), width)


Background = Literal["learned", "zero"]


class TextClassifier(nn.Module):
    """Cosine with each name's vector and with the background's, over a temperature.

    No text says what background is. Its vector is learned, as in ViLD (2104.13921), or zero, as in
    RegionCLIP (2112.09106): then its logit is always 0, and a name must have a cosine above 0 to
    beat it.

    Args:
        width: Width D of the text vectors.
        temperature: What cosines are divided by, 0.01 as in CLIP.
        learn_temperature: Learn it, from there; ViLD keeps it.
        background: How the background has a vector.
    """

    background: Tensor

    def __init__(
        self,
        width: int,
        temperature: float,
        learn_temperature: bool,
        background: Background = "learned",
    ) -> None:
        super().__init__()
        if background == "learned":
            self.background = nn.Parameter(torch.randn(width) * 0.01)
        else:
            self.register_buffer("background", torch.zeros(width), persistent=False)
        self.log_scale = nn.Parameter(
            torch.tensor(-math.log(temperature)), requires_grad=learn_temperature
        )

    def forward(
        self, embeddings: Float[Tensor, "P D"], text: Float[Tensor, "K D"]
    ) -> Float[Tensor, "P K+1"]:
        """Logits of the names and, last, of the background."""
        background = F.normalize(self.background, dim=0)
        return self.without_background(embeddings, torch.cat([text, background[None]]))

    def without_background(
        self, embeddings: Float[Tensor, "P D"], text: Float[Tensor, "K D"]
    ) -> Float[Tensor, "P K"]:
        """Logits of the names alone; in full precision, as a small temperature magnifies errors."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.log_scale.exp() * (embeddings @ text.mT)

    @torch.no_grad()
    def even_cosine(
        self, region: Float[Tensor, "D"], text: Float[Tensor, "K D"]
    ) -> Float[Tensor, ""]:
        """The cosine with which one name more has half the share, beside names and background."""
        logits = self(region[None], text)[0]
        return (logits.logsumexp(0) / self.log_scale.exp()).clamp(-1, 1)


class BranchWeights(NamedTuple):
    """How much what was learned from names counts beside what CLIP knows, in [0, 1]."""

    base: float  # of names that were trained on
    novel: float  # of others


def geometric_mean(
    text: Float[Tensor, "P K"],
    image: Float[Tensor, "P K"],
    base: Bool[Tensor, "K"],
    weights: BranchWeights,
) -> Float[Tensor, "P K"]:
    """text^λ · image^(1-λ): the branch that knows a name better counts more.

    It is the score of ViLD-ensemble (2104.13921) and of F-VLM (2209.15639, recalled).

    Args:
        text: Scores in [0, 1] of what learned from names.
        image: Scores in [0, 1] of CLIP, or of what learned from it.
        base: Names that were trained on.
        weights: λ of these, and of others; ViLD's released code has 2/3 and 1/3.
    """
    weight = torch.where(base, weights.base, weights.novel).to(text.dtype)
    return text**weight * image ** (1 - weight)


Fusion = Literal["none", "sigmoid", "logit"]

DROPPED = -1.0
"""Score of what leaves: below every threshold."""


def fuse(
    named: Float[Tensor, "P K"], objectness: Float[Tensor, "P"], fusion: Fusion
) -> Float[Tensor, "P K"]:
    """Joins the probability of each name with a proposal's objectness.

    `none`: the probability alone. `sigmoid`: the geometric mean of both, in [0, 1]. `logit`: as
    RegionCLIP's released code (2112.09106) has it, the root of probability times the *raw logit* of
    the objectness. There a negative logit makes a root that is no number, and rows without a number
    are dropped: so it is also a gate, which lets only proposals of objectness above one half pass,
    and scores may be above 1. Here the gate is written out, and what it stops scores `DROPPED`.

    Args:
        named: Probabilities.
        objectness: In [0, 1]; its logit is exact to a thousandth up to 10, and never above 16.
        fusion: How.
    """
    if fusion == "none":
        return named
    if fusion == "sigmoid":
        return (named * objectness[:, None]).sqrt()
    raw = objectness.float().logit(eps=1e-7)[:, None]
    return torch.where(raw > 0, (named * raw.clamp(min=0)).sqrt(), DROPPED)
