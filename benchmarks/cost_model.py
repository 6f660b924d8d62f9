"""Does the cost model of docs/cost.md predict the time of a training step?

Each part (backbone, pyramid, head, loss) is timed, forward and backward, at one size and one
vocabulary; its operations then give its speed. From these the step is predicted at three sizes and
three vocabularies, and measured; both tables are written into the page. About ten minutes:
python benchmarks/cost_model.py
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import _networks
import _timing
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from training_step import step

from gridclip.detectors.gridclip import GridCLIP
from gridclip.focal import Cosines
from gridclip.losses import grid_alignment

SIZES = ((480, 800), (640, 1066), (800, 1333))
COUNTS = (80, 1203, 5000)
PAGE = Path(__file__).parents[1] / "docs" / "cost.md"


class Part(NamedTuple):
    """What one part of a step did."""

    flops: float  # of forward and backward, a multiplication and an addition counted as two
    seconds: float


def main() -> None:
    given = _timing.arguments(__doc__, num_convs=4)
    sizes = ((96, 128), (128, 192), (160, 256)) if given.quick else SIZES
    detector = _networks.gridclip(given.num_convs, aligned=True).train()
    reference = measured_parts(detector, sizes[1], COUNTS[1], given)
    lines = [
        f"{_timing.machine()}; towers of {given.num_convs}, one picture, single precision.",
        "",
        f"| part, at {sizes[1][0]} × {sizes[1][1]}, {COUNTS[1]} names | GFLOP | s | GFLOP/s |",
        "|---|---|---|---|",
    ]
    for name, part in reference.items():
        speed = part.flops / part.seconds / 1e9
        lines.append(f"| {name} | {part.flops / 1e9:.0f} | {part.seconds:.2f} | {speed:.0f} |")
    lines += ["", "| pixels | names | predicted | measured | gap |", "|---|---|---|---|---|"]
    gaps = []
    for size in sizes:
        for count in COUNTS:
            predicted = sum(
                part.seconds * flops_of(detector, name, size, count) / part.flops
                for name, part in reference.items()
            )
            measured = time_of_step(detector, size, count, given.rounds)
            gaps.append(predicted / measured - 1)
            lines.append(
                f"| {size[0]} × {size[1]} | {count} | {predicted:.2f} s | {measured:.2f} s "
                f"| {gaps[-1]:+.0%} |"
            )
    lines += ["", f"Largest gap {max(map(abs, gaps)):.0%}; the goal is 20 %."]
    print("\n".join(lines))
    if not given.quick:
        _timing.fill(PAGE, lines)


def time_of_step(detector: GridCLIP, size: tuple[int, int], count: int, rounds: int) -> float:
    batch = _networks.batch(size, 1, _networks.names(count))
    run = step(detector, lambda: [*detector.losses(batch).values()])
    return statistics.median(_timing.seconds({"step": run}, rounds)["step"])


def measured_parts(
    detector: GridCLIP, size: tuple[int, int], count: int, given: argparse.Namespace
) -> dict[str, Part]:
    """Time of each part by itself; what is left of the step goes with the backbone."""
    runs = parts(detector, size, count)
    batch = _networks.batch(size, 1, _networks.names(count))
    whole = step(detector, lambda: [*detector.losses(batch).values()])
    taken = _timing.seconds({**runs, "step": whole}, given.rounds)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    rest = seconds.pop("step") - sum(seconds.values())
    print(f"  parts alone {sum(seconds.values()):.2f} s, the rest of the step {rest:+.2f} s")
    seconds["backbone"] += rest
    return {name: Part(flops_of(detector, name, size, count), seconds[name]) for name in runs}


def flops_of(detector: GridCLIP, name: str, size: tuple[int, int], count: int) -> float:
    """Floating-point operations of a part, forward and backward."""
    if name == "loss":  # the fused loss hides its products from the counter
        cells = sum(-(-size[0] // s) * -(-size[1] // s) for s in (8, 16, 32, 64, 128))
        return 4.0 * cells * count * _networks.WIDTH
    counter = FlopCounterMode(display=False)
    with counter:
        parts(detector, size, count)[name]()
    return float(counter.get_total_flops())


def parts(detector: GridCLIP, size: tuple[int, int], count: int) -> dict[str, Callable[[], object]]:
    """Forward and backward of each part, from detached inputs."""
    pictures = _networks.pictures(size)
    maps = [each.detach().requires_grad_() for each in detector.backbone(pictures)]
    levels = [each.detach().requires_grad_() for each in detector.neck(maps)]
    cells = sum(each.shape[-2] * each.shape[-1] for each in levels)
    embeddings = torch.randn(1, cells, _networks.WIDTH)
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1).requires_grad_()
    cosines = Cosines(
        embeddings, detector.text(_networks.names(count)), detector.log_scale.exp(), detector.bias
    )
    owners = torch.full((1, cells), -1)

    def back(values: list[Tensor]) -> None:
        torch.autograd.backward(values, [torch.ones_like(value) for value in values])
        detector.zero_grad()

    return {
        "backbone": lambda: back(detector.backbone(pictures)),
        "pyramid": lambda: back(detector.neck(maps)),
        "head": lambda: back([part for level in detector.head(levels) for part in level]),
        "loss": lambda: torch.autograd.grad(grid_alignment(cosines, owners), embeddings),
    }


if __name__ == "__main__":
    main()
