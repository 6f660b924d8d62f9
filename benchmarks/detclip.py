"""What does DetCLIPv2 cost beside GridCLIP-R50: detection, a step of boxes, a step of captions?

DetCLIPv2-T as published (Swin-T, a CLIP text tower that learns) and on GridCLIP's own backbone,
with the deformable convolution and without, all in turn, with random weights. Detection: one
image of 800 × 1333 and 1203 names, whose vectors are kept. Steps of boxes: 150 names, as in the
paper; GridCLIP has towers of 4 and image-level alignment to stored embeddings. Steps of captions: 8
images of 320 × 320 of 4 phrases each, 100 regions; GridCLIP has the same loss (weights.words).
About ten minutes:  python benchmarks/detclip.py
"""

import argparse
from collections.abc import Callable

import _networks
import _timing
import torch
from lightning.pytorch.utilities import move_data_to_device
from training_step import step

from gridclip.models.base import Batch, Detector
from gridclip.models.encoders.backbones import ClipResNet

OURS = "GridCLIP-R50"


def main() -> None:
    given = _timing.arguments(__doc__, names=1203, concepts=150, batch=1, pairs=8)
    made = {"inference": inference, "step of boxes": boxes, "step of captions": captions}
    rows = []
    for question, sides in made.items():
        taken = _timing.seconds(sides(given), given.rounds)
        peer = taken.pop(OURS)
        rows += [
            _timing.row(f"{question}, {name}: time of {OURS}", each, peer, "–", faster=False)
            for name, each in taken.items()
        ]
    _timing.report(rows, given)


def inference(given: argparse.Namespace) -> dict[str, Callable[[], object]]:
    size = _networks.SMALL if given.quick else _networks.FULL
    images = move_data_to_device(_networks.images(size), torch.device(given.device))
    vocabulary, records = _networks.names(given.names), _networks.records(size)

    def run(network: Detector) -> Callable[[], object]:
        network.eval().to(given.device)
        return lambda: network.detect(images, vocabulary, records)

    return {name: run(network) for name, network in networks(words=False).items()}


def boxes(given: argparse.Namespace) -> dict[str, Callable[[], object]]:
    size = _networks.SMALL if given.quick else _networks.FULL
    batch = _networks.batch(size, given.batch, _networks.names(given.concepts))
    return steps(batch, given.device, words=False)


def captions(given: argparse.Namespace) -> dict[str, Callable[[], object]]:
    side = 64 if given.quick else 320
    return steps(_networks.pairs((side, side), given.pairs), given.device, words=True)


def steps(batch: Batch, device: str, *, words: bool) -> dict[str, Callable[[], object]]:
    batch = move_data_to_device(batch, torch.device(device))
    made = networks(words=words)
    return {
        name: step(
            network.train().to(device), lambda network=network: [*network.losses(batch).values()]
        )
        for name, network in made.items()
    }


def networks(*, words: bool) -> dict[str, Detector]:
    return {
        OURS: _networks.gridclip(4, aligned=not words, words=words),
        "DetCLIPv2-T": _networks.detclip(),
        "DetCLIPv2-T without deforming": _networks.detclip(deformable=False),
        "DetCLIPv2-R50": _networks.detclip(ClipResNet(_networks.RN50)),
    }


if __name__ == "__main__":
    main()
