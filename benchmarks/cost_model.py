"""Does the cost model of docs/cost.md predict the time of a training step?

Each part (backbone, pyramid, head, loss) is timed, forward and backward, at one size and one
vocabulary; its operations then give its speed. From these the step is predicted at three sizes and
three vocabularies, and measured, all in turn, so that a busy machine slows both; the tables are
written into the page. About twenty minutes:  python benchmarks/cost_model.py
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import _networks
import _timing
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from training_step import step

from gridclip.models.gridclip.model import GridCLIP
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.losses import grid_alignment

SIZES = ((480, 800), (640, 1066), (800, 1333))
COUNTS = (80, 1203, 5000)
PAGE = Path(__file__).parents[1] / "docs" / "cost.md"

Case = tuple[tuple[int, int], int]  # height and width of the image, number of names


def main() -> None:
    given = _timing.arguments(__doc__, num_convs=4)
    sizes = ((96, 128), (128, 192), (160, 256)) if given.quick else SIZES
    detector = _networks.gridclip(given.num_convs, aligned=True).train()
    cases = [(size, count) for size in sizes for count in COUNTS]
    reference = sizes[1], COUNTS[1]
    taken = _timing.seconds(sides(detector, cases, reference), given.rounds)
    flops = {case: flops_of(detector, *case) for case in cases}
    lines = [
        f"{_timing.machine()}; towers of {given.num_convs}, one image, single precision,",
        f"medians of {given.rounds} turns; a gap is the median of the turns' gaps. The step of"
        f" {sizes[1][0]} × {sizes[1][1]} with {COUNTS[1]} names is what predictions start from.",
        "",
        *table_of_parts(reference, taken, flops[reference]),
        "",
        *table_of_steps(cases, predicted(taken, flops, reference), taken),
    ]
    print("\n".join(lines))
    if not given.quick:
        _timing.fill(PAGE, lines)


def sides(
    detector: GridCLIP, cases: list[Case], reference: Case
) -> dict[str | Case, Callable[[], object]]:
    """The parts of the step of reference, and the steps of all cases."""
    run = step(detector, lambda batch: [*detector.losses(batch).values()])
    batches = {case: _networks.batch(case[0], 1, _networks.names(case[1])) for case in cases}
    steps = {case: partial(run, batch) for case, batch in batches.items()}
    return {**parts(detector, *reference), **steps}


def predicted(
    taken: dict[str | Case, list[float]], flops: dict[Case, dict[str, float]], reference: Case
) -> dict[Case, list[float]]:
    """Seconds of each case, turn by turn: of the parts at the speed that they had in that turn.

    What is left of the reference's step (the optimizer, the image's loss) goes with the backbone.
    """
    names = flops[reference]
    turns = []
    for *alone, whole in zip(*(taken[name] for name in names), taken[reference], strict=True):
        seconds = dict(zip(names, alone, strict=True))
        seconds["backbone"] += whole - sum(alone)
        turns.append({name: names[name] / seconds[name] for name in names})  # operations a second
    return {
        case: [sum(count / speed[name] for name, count in each.items()) for speed in turns]
        for case, each in flops.items()
    }


def table_of_parts(
    reference: Case, taken: dict[str | Case, list[float]], flops: dict[str, float]
) -> list[str]:
    (height, width), names = reference
    lines = [
        f"| part alone, at {height} × {width}, {names} names | GFLOP | s | GFLOP/s |",
        "|---|---|---|---|",
    ]
    for name, count in flops.items():
        seconds = statistics.median(taken[name])
        lines.append(
            f"| {name} | {count / 1e9:.0f} | {seconds:.2f} | {count / seconds / 1e9:.0f} |"
        )
    return lines


def table_of_steps(
    cases: list[Case], guessed: dict[Case, list[float]], taken: dict[str | Case, list[float]]
) -> list[str]:
    """Prediction and measurement of each case."""
    lines = ["| pixels | names | predicted | measured | gap |", "|---|---|---|---|---|"]
    gaps = []
    for case in cases:
        (height, width), names = case
        seconds = [statistics.median(each[case]) for each in (guessed, taken)]
        turns = zip(guessed[case], taken[case], strict=True)
        gaps.append(statistics.median(guess / time - 1 for guess, time in turns))
        lines.append(
            f"| {height} × {width} | {names} | {seconds[0]:.2f} s | {seconds[1]:.2f} s "
            f"| {gaps[-1]:+.0%} |"
        )
    return [*lines, "", f"Largest gap {max(map(abs, gaps)):.0%}; the goal is 20 %."]


def flops_of(detector: GridCLIP, size: tuple[int, int], count: int) -> dict[str, float]:
    """Floating-point operations of each part, forward and backward; 2 a multiply-add."""
    counted = {}
    for name, run in parts(detector, size, count).items():
        with FlopCounterMode(display=False) as counter:
            run()
        counted[name] = float(counter.get_total_flops())
    # The fused loss hides its products from the counter.
    cells = sum(-(-size[0] // s) * -(-size[1] // s) for s in (8, 16, 32, 64, 128))
    counted["loss"] = 4.0 * cells * count * _networks.WIDTH
    return counted


def parts(detector: GridCLIP, size: tuple[int, int], count: int) -> dict[str, Callable[[], object]]:
    """Forward and backward of each part, from detached inputs."""
    images = _networks.images(size)
    maps = [each.detach().requires_grad_() for each in detector.backbone(images)]
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
        "backbone": lambda: back(detector.backbone(images)),
        "pyramid": lambda: back(detector.neck(maps)),
        "head": lambda: back([part for level in detector.head(levels) for part in level]),
        "loss": lambda: torch.autograd.grad(grid_alignment(cosines, owners), embeddings),
    }


if __name__ == "__main__":
    main()
