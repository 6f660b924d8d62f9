"""What does training GridCLIP-R50 cost against ViLD-R50, schedules counted, and RegionCLIP-R50?

Steps of both take turns on the same batch: 800 × 1333, 1203 names, stored embeddings of images
and of 300 proposals an image. Embedding these is counted once, at the measured cost of one crop
and one image. ViLD's released schedule is 460 epochs, GridCLIP's here is 12:

    ratio = (460 · step of ViLD + 600 crops) / (12 · step of GridCLIP + 1 crop)

Of RegionCLIP, whose encoder is pre-trained first, the step of its transfer alone is compared.
About five minutes:  python benchmarks/vild_training.py
"""

import argparse

import _networks
import _timing
import torch
from training_step import step

from gridclip.models.encoders.teachers import ClipTeacher

EPOCHS, THEIR_EPOCHS = 12, 460
CROPS = 2 * 300  # two scales of each stored proposal


def main() -> None:
    given = _timing.arguments(__doc__, names=1203, batch=1)
    taken = measure(given)
    crop = min(taken.pop("crop"))
    rows = []
    for variant in ("vild", "vild-ensemble"):
        theirs = [THEIR_EPOCHS * each + CROPS * crop for each in taken[variant]]
        for convs in (4, 2, 1):
            ours = taken[f"towers of {convs}"]
            question = f"towers of {convs} against {variant}"
            rows.append(_timing.row(f"step: {question}", ours, taken[variant], "–", faster=True))
            whole = [EPOCHS * each + crop for each in ours]
            rows.append(
                _timing.row(f"training an image: {question}", whole, theirs, "≥ 43", faster=True)
            )
    for convs in (4, 2, 1):
        question, ours = f"towers of {convs} against regionclip", taken[f"towers of {convs}"]
        rows.append(_timing.row(f"step: {question}", ours, taken["regionclip"], "–", faster=True))
    _timing.report(rows, given)


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds an image of each step, and of one crop seen by the teacher."""
    size = _networks.SMALL if given.quick else _networks.FULL
    batch = _networks.batch(size, given.batch, _networks.names(given.names))
    networks = {
        f"towers of {convs}": _networks.gridclip(convs, aligned=True) for convs in (4, 2, 1)
    }
    networks |= {variant: _networks.vild(variant) for variant in ("vild", "vild-ensemble")}
    networks["regionclip"] = _networks.regionclip()
    runs = {
        name: step(network.train(), lambda network=network: [*network.losses(batch).values()])
        for name, network in networks.items()
    }
    teacher = ClipTeacher(_networks.RN50)
    teacher.load()
    crops = 2 if given.quick else 32
    square = _networks.images((teacher.side, teacher.side), crops)
    runs["crop"] = lambda: teacher(square)
    taken = _timing.seconds(runs, given.rounds)
    share = {name: crops if name == "crop" else given.batch for name in taken}
    return {name: [each / share[name] for each in times] for name, times in taken.items()}


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    main()
