"""How many training images a second are loaded, here and by torchvision?

Decode, multi-scale resize (640 to 800, longest 1333), flip and padded batches of bytes, from one
COCO-form folder, with as many workers. `CocoDetection` with transforms v2 and our loader take turns
in one run, so that a busy machine slows both. Needs a minute or two:

    python benchmarks/loading.py data/coco --train train.json --images images --workers 2
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from gridclip.data.datamodules.detection import DetectionData
from gridclip.ops.images import pad

SHORTEST, LONGEST = (640, 672, 704, 736, 768, 800), 1333


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    print_machine(arguments)
    ours, theirs = our_batches(arguments), their_batches(arguments)
    rounds = [
        (images_a_second(ours, arguments), images_a_second(theirs, arguments))
        for _ in range(arguments.rounds)
    ]
    ratios = [ours / theirs for ours, theirs in rounds]
    for name, values, unit in (
        ("gridclip", [ours for ours, _ in rounds], "images/s"),
        ("torchvision", [theirs for _, theirs in rounds], "images/s"),
        ("gridclip / torchvision", ratios, "x"),
    ):
        spread = f"of {len(values)}: {min(values):.2f} to {max(values):.2f}"
        print(f"  {name:24} median {statistics.median(values):7.2f} {unit:10} ({spread})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/mini"))
    parser.add_argument("--train", default="train.json", help="relative to the folder")
    parser.add_argument("--images", default="images", help="relative to the folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--batches", type=int, default=40, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def images_a_second(batches: Iterator[int], arguments: argparse.Namespace) -> float:
    """Time some batches of an endless loader; the workers are at work before and after."""
    next(batches)
    start = time.perf_counter()
    images = sum(islice(batches, arguments.batches))
    return images / (time.perf_counter() - start)


def our_batches(arguments: argparse.Namespace) -> Iterator[int]:
    """Number of images of each batch, without end."""
    data = DetectionData(
        str(arguments.folder),
        train=arguments.train,
        images=arguments.images,
        rare_split="all",
        batch_size=arguments.batch_size,
        num_workers=arguments.workers,
    )
    assert data.resize.shortest == SHORTEST
    assert data.resize.longest == LONGEST
    loader = data.train_dataloader()
    while True:
        for batch in loader:
            yield len(batch.records)


def their_batches(arguments: argparse.Namespace) -> Iterator[int]:
    """The same of torchvision: shuffled, padded batches of bytes, boxes with their labels."""
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    images = CocoDetection(
        str(arguments.folder / arguments.images),
        str(arguments.folder / arguments.train),
        transforms=v2.Compose(
            [
                v2.ToImage(),
                v2.RandomShortestSize(list(SHORTEST), LONGEST),
                v2.RandomHorizontalFlip(0.5),
            ]
        ),
    )
    loader = DataLoader(
        wrap_dataset_for_transforms_v2(images, target_keys=("boxes", "labels")),
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
        collate_fn=their_collate,
        persistent_workers=arguments.workers > 0,
    )
    while True:
        for images, _ in loader:
            yield len(images.pixels)


def their_collate(samples: list[tuple[Any, Any]]) -> tuple[Any, list[Any]]:
    """Pad as we do."""
    return pad([image for image, _ in samples]), [target for _, target in samples]


def print_machine(arguments: argparse.Namespace) -> None:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "torchvision", "pillow", "opencv-python-headless")
    )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"Python {platform.python_version()}, {versions}")
    print(f"{arguments.workers} workers, batches of {arguments.batch_size}")


if __name__ == "__main__":
    main()
