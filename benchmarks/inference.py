"""How fast does GridCLIP-R50 detect 1203 names, against torchvision's FCOS R50 of 91 classes?

One image of 800 × 1333, decoding and suppression included, random weights, all in turn: heads of
4 convolutions, as FCOS has, and lighter ones. About three minutes: python benchmarks/inference.py
"""

from collections.abc import Callable

import _networks
import _timing
import torch


def main() -> None:
    given = _timing.arguments(__doc__, names=1203)
    size = _networks.SMALL if given.quick else _networks.FULL
    taken = _timing.seconds(sides(size, given.names, given.device), given.rounds)
    peer = taken.pop("torchvision")
    rows = [
        _timing.row(
            f"inference {size[0]} × {size[1]}, {given.names} names, {name}: time of FCOS R50",
            ours,
            peer,
            "≤ 1.0",
            faster=False,
        )
        for name, ours in taken.items()
    ]
    _timing.report(rows, given)


def sides(size: tuple[int, int], names: int, device: str) -> dict[str, Callable[[], object]]:
    vocabulary, images = _networks.names(names), _networks.images(size)
    images = type(images)(*(part.to(device) for part in images))
    records = _networks.records(size)
    fcos = _networks.fcos(size).eval().to(device)
    image = images.pixels[0, :, : size[0], : size[1]].float() / 255

    @torch.no_grad()
    def theirs() -> object:
        return fcos([image])

    runs: dict[str, Callable[[], object]] = {"torchvision": theirs}
    for num_convs in (4, 2, 1):
        detector = _networks.gridclip(num_convs).eval().to(device)
        runs[f"towers of {num_convs}"] = lambda detector=detector: detector.detect(
            images, vocabulary, records
        )
    return runs


if __name__ == "__main__":
    main()
