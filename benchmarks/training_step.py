"""What does a training step cost, against torchvision's FCOS R50 at equal batch and size?

GridCLIP-R50 with 1203 names and image-level alignment (stored embeddings) and FCOS R50 with 91
classes take turns: losses, gradients and the same fused AdamW; batch-norm statistics frozen in both
backbones, whose stems and first stages learn in both. About five minutes:
python benchmarks/training_step.py
"""

from collections.abc import Callable

import _networks
import _timing
import torch
from torch import Tensor, nn

from gridclip.structures import DetectionBatch


def main() -> None:
    given = _timing.arguments(__doc__, names=1203, batch=1)
    size = _networks.SMALL if given.quick else _networks.FULL
    taken = _timing.seconds(sides(size, given.batch, given.names, given.device), given.rounds)
    peer = taken.pop("torchvision")
    rows = [
        _timing.row(
            f"training step, batch {given.batch}, {given.names} names, {name}: time of FCOS R50",
            ours,
            peer,
            "≤ 1.1",
            faster=False,
        )
        for name, ours in taken.items()
    ]
    _timing.report(rows, given)


def sides(
    size: tuple[int, int], count: int, names: int, device: str
) -> dict[str, Callable[[], object]]:
    from lightning.pytorch.utilities import move_data_to_device

    batch = _networks.batch(size, count, _networks.names(names))
    batch = move_data_to_device(batch, torch.device(device))
    fcos = _networks.fcos(size).train().to(device)
    for part in fcos.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    images = [pixels[:, : size[0], : size[1]].float() / 255 for pixels in batch.images.pixels]
    truth = [{"boxes": each.boxes, "labels": each.labels % 90 + 1} for each in batch.targets]
    runs = {"torchvision": step(fcos, lambda: [*fcos(images, truth).values()])}
    for num_convs in (4, 2, 1):
        detector = _networks.gridclip(num_convs, aligned=True).train().to(device)
        runs[f"towers of {num_convs}"] = step(
            detector, lambda detector=detector: [*detector.losses(batch).values()]
        )
    return runs


def step(network: nn.Module, losses: Callable[..., list[Tensor]]) -> Callable[..., None]:
    """Losses (of what the step is called with), gradients, and the optimizer."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def run(*batch: DetectionBatch) -> None:
        optimizer.zero_grad()
        torch.stack(losses(*batch)).sum().backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    main()
