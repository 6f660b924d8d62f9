"""What does grid-text focal loss cost, fused here and written out with torchvision?

One image of 22 300 cells and 1203 names, forward and backward, the two in turn; beside them the
two matrix products alone, below which nothing can be. Peak memory of each in a process of its own,
also with 13 000 names. About two minutes:  python benchmarks/grid_loss.py
"""

import argparse
from collections.abc import Callable

import _timing
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from gridclip.ops.focal_loss import Cosines
from gridclip.ops.losses import grid_alignment

LARGE = "ours at 13000 names"


def main() -> None:
    given = _timing.arguments(__doc__, width=1024, cells=22_300, names=1203)
    if given.quick:
        given.cells, given.width, given.names = 500, 64, 100
    if given.memory:
        large = given.memory == LARGE
        side = sides(given, 13_000 if large else given.names)["ours" if large else given.memory]
        _timing.print_peak(side, given.device)
        return
    taken = _timing.seconds(sides(given, given.names), given.rounds)
    size = f"{given.cells} cells × {given.names} names × width {given.width}"
    peaks = {name: _timing.memory_of(name) for name in ("ours", "written out", LARGE)}
    ours, peer = taken["ours"], taken["written out"]
    products = taken["two products"]
    rows = [
        _timing.row(f"grid loss, {size}: time", ours, peer, "≤ 0.33", faster=False),
        _timing.row("the same against its two products", ours, products, "≤ 1.3", faster=False),
        _timing.memory_row("the same: peak memory", peaks["ours"], peaks["written out"], "≤ 0.125"),
        _timing.memory_row("at 13 000 names, against 1 GB", peaks[LARGE], 2**30, "≤ 1"),
    ]
    _timing.report(rows, given)


def sides(given: argparse.Namespace, names: int) -> dict[str, Callable[[], object]]:
    """Value and gradients by embeddings, scale and bias; text vectors are frozen."""
    torch.manual_seed(0)
    place = {"device": given.device}
    embeddings = F.normalize(torch.randn(1, given.cells, given.width, **place), dim=-1)
    embeddings.requires_grad_()
    text = F.normalize(torch.randn(names, given.width, **place), dim=-1)
    scale = torch.tensor(14.0, requires_grad=True, **place)
    bias = torch.tensor(-4.6, requires_grad=True, **place)
    owners = torch.full((1, given.cells), -1, **place)
    owners[0, :: given.cells // 100] = 3
    cosines, learnt = Cosines(embeddings, text, scale, bias), (embeddings, scale, bias)

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(grid_alignment(cosines, owners), learnt)

    def written_out() -> tuple[Tensor, ...]:
        hits = torch.zeros(1, given.cells, names, **place)
        hits[owners >= 0, owners[owners >= 0]] = 1
        loss = sigmoid_focal_loss(cosines.logits(), hits, reduction="sum")
        return torch.autograd.grad(loss / (owners >= 0).sum(), learnt)

    @torch.no_grad()
    def two_products() -> Tensor:
        return (embeddings @ text.mT) @ text

    return {"ours": ours, "written out": written_out, "two products": two_products}


if __name__ == "__main__":
    main()
