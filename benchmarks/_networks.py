"""The networks that the benchmarks compare, at full size with random weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gridclip.models.detclip.model import DetCLIPv2
from gridclip.models.encoders.backbones import Backbone, ClipResNet, TimmBackbone
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_encoders import ClipRegions
from gridclip.models.encoders.teachers import Teacher
from gridclip.models.encoders.text import TextBank
from gridclip.models.encoders.trained_text import TrainedText
from gridclip.models.gridclip.model import GridCLIP, LossWeights
from gridclip.models.regionclip.model import RegionCLIP
from gridclip.models.vild.model import Variant, ViLD
from gridclip.ops.assigners import FCOSAssigner
from gridclip.structures import (
    ConceptBatch,
    DetectionBatch,
    Images,
    Record,
    RegionTargets,
    Targets,
    Vocabulary,
)

RN50 = ClipModel(name="RN50", weights="random")
WIDTH = 1024  # of RN50's space
FULL, SMALL = (800, 1333), (128, 192)


class RandomText(TextBank):
    """A narrow cone of unit vectors, as CLIP's text vectors are; always the same for a count."""

    width = WIDTH

    def encode(self, vocabulary: Vocabulary) -> Tensor:
        chance = torch.Generator().manual_seed(len(vocabulary))
        middle = torch.randn(self.width, generator=torch.Generator().manual_seed(0))
        return middle + torch.randn(len(vocabulary), self.width, generator=chance) / 2

    def fingerprint(self) -> str:
        return "random"


class StoredTeacher(Teacher):
    """Batches carry its embeddings; only its width is asked."""

    width = WIDTH

    def load(self) -> None: ...

    def fingerprint(self) -> str:
        return "stored"

    def forward(self, images: Images) -> Tensor:
        raise AssertionError("the batch carries no embeddings")


def gridclip(num_convs: int = 4, *, aligned: bool = False, words: bool = False) -> GridCLIP:
    """GridCLIP-R50; `aligned`: drawn to a stored teacher; `words`: made to learn of captions."""
    torch.manual_seed(0)
    detector = GridCLIP(
        ClipResNet(RN50),
        RandomText(),
        FCOSAssigner(),
        teacher=StoredTeacher() if aligned else None,
        num_convs=num_convs,
        weights=LossWeights(image=0.5 if aligned else 0.0, words=0.1 if words else 0.0),
    )
    return detector.to(memory_format=torch.channels_last)


def vild(variant: Variant, *, masks: bool = False) -> ViLD:
    """ViLD-R50 as released: 1000 proposals, heads of 4 convolutions and 2 layers, P2 too.

    Args:
        variant: Which of its heads it has.
        masks: Whether it has the mask branch, as published, or finds boxes only.
    """
    torch.manual_seed(0)
    detector = ViLD(ClipResNet(RN50, finest=4), RandomText(), variant=variant, masks=masks)
    return detector.to(memory_format=torch.channels_last)


def regionclip() -> RegionCLIP:
    """RegionCLIP-R50-C4 as released: a frozen network with a pyramid gives 1000 proposals."""
    torch.manual_seed(0)
    detector = RegionCLIP(ClipRegions(RN50), RandomText(), proposer=vild("vild-text"))
    return detector.to(memory_format=torch.channels_last)


def detclip(backbone: Backbone | None = None, *, deformable: bool = True) -> DetCLIPv2:
    """DetCLIPv2-T as published, with CLIP's text tower for FILIP's; or on another backbone."""
    torch.manual_seed(0)
    swin = TimmBackbone("swin_tiny_patch4_window7_224") if backbone is None else backbone
    text = TrainedText(ClipModel(name="ViT-B-32", weights="random"))
    detector = DetCLIPv2(swin, text, deformable=deformable)
    return detector.to(memory_format=torch.channels_last)


def names(count: int) -> Vocabulary:
    return Vocabulary(f"name {number}" for number in range(count))


def images(size: tuple[int, int], count: int = 1, multiple: int = 32) -> Images:
    """Noise, padded as batches are."""
    height, width = (-(-side // multiple) * multiple for side in size)
    chance = torch.Generator().manual_seed(0)
    pixels = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    noise = torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=chance)
    pixels[:, :, : size[0], : size[1]] = noise
    return Images(pixels, torch.tensor([size] * count))


def records(size: tuple[int, int], count: int = 1) -> list[Record]:
    return [Record(number, "", *size) for number in range(count)]


def boxes(size: tuple[int, int], count: int, names: int, seed: int = 0) -> Targets:
    """Objects of all sizes; LVIS has about 13 in an image."""
    chance = torch.Generator().manual_seed(seed)
    sides = torch.tensor([size[1], size[0]], dtype=torch.float)
    extent = (0.03 + 0.5 * torch.rand(count, 2, generator=chance) ** 2) * sides
    corner = torch.rand(count, 2, generator=chance) * (sides - extent)
    labels = torch.randint(names, (count,), generator=chance)
    return Targets(torch.cat([corner, corner + extent], dim=1), labels)


def batch(size: tuple[int, int], count: int, vocabulary: Vocabulary) -> DetectionBatch:
    """What a step takes, with stored embeddings of each image and of 300 regions in it."""
    chance = torch.Generator().manual_seed(0)
    return DetectionBatch(
        images(size, count),
        [boxes(size, 13, len(vocabulary), seed) for seed in range(count)],
        vocabulary,
        records(size, count),
        teacher=F.normalize(torch.randn(count, WIDTH, generator=chance), dim=1),
        regions=[
            RegionTargets(
                boxes(size, 300, 1, 100 + image).boxes,
                F.normalize(torch.randn(300, WIDTH, generator=chance), dim=1),
            )
            for image in range(count)
        ],
    )


def pairs(size: tuple[int, int], count: int, phrases: int = 4) -> ConceptBatch:
    """Images with a caption of so many phrases each."""
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return ConceptBatch(
        "pairs",
        images(size, count),
        [nothing] * count,
        names(count * phrases),
        torch.eye(count, dtype=torch.bool).repeat_interleave(phrases, dim=1),
        ("",) * count,
        records(size, count),
    )


def fcos(size: tuple[int, int] = FULL) -> torch.nn.Module:
    """FCOS R50 of torchvision, closed set of COCO's 91 classes, for images of this size."""
    from torchvision.models.detection import fcos_resnet50_fpn

    torch.manual_seed(0)
    return fcos_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=min(size), max_size=max(size)
    )
