"""Parameter groups and learning-rate schedules."""

import math
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Trainer
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gridclip.io.errors import InputError, require_range
from gridclip.models.base import Detector


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW, with a warm-up and one way down.

    Args:
        lr: Highest learning rate of what starts from scratch.
        pretrained_factor: What starts from pre-trained weights learns this many times as fast.
        weight_decay: On weights of convolutions and linear maps; norms and biases have none.
        warmup: Share of all steps in which the rate rises linearly from zero, in [0, 1).
        schedule: After the warm-up: `cosine` to zero, `steps` × 0.1 at milestones, `constant`.
        milestones: Shares of all steps after which `steps` drops the rate; 8/12 and 11/12 are the
            usual "1x".
        fused: All weights in one call a group: faster, and without a wait for a device. Lightning
            refuses it together with mixed precision and clipped gradients.
    """

    lr: float = 1e-4
    pretrained_factor: float = 0.1
    weight_decay: float = 1e-4
    warmup: float = 0.05
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)
    fused: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "pretrained_factor", "weight_decay"):
            require_range(getattr(self, name), f"optimizer.{name}", least=0)
        require_range(self.warmup, "optimizer.warmup", least=0, below=1)


def make_optimizer(detector: Detector, settings: OptimizerSettings) -> Optimizer:
    """AdamW over four groups: from scratch or pre-trained, with and without decay."""
    slow = {id(p) for part in detector.pretrained() for p in part.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in detector.parameters():
        if parameter.requires_grad:
            kind = (id(parameter) in slow, parameter.ndim > 1)
            groups.setdefault(kind, []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "lr": settings.lr * (settings.pretrained_factor if pretrained else 1.0),
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (pretrained, decays), parameters in groups.items()
        ],
        fused=settings.fused or None,
    )


def require_end(trainer: Trainer) -> None:
    """Refuses a training without an end, over which no learning rate can be planned.

    Raises:
        InputError: if neither max_steps nor max_epochs is one, as with max_time alone.
    """
    if trainer.max_steps == trainer.max_epochs == -1:
        raise _endless()


def planned_steps(trainer: Trainer) -> int:
    """Returns the optimizer steps of a whole training.

    Raises:
        InputError: if it has no end.
    """
    require_end(trainer)
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):  # epochs of a loader that does not say how long it is
        raise _endless()
    return int(steps)


def _endless() -> InputError:
    return InputError(
        "the training has no end",
        field="trainer.max_steps",
        fix="give --trainer.max_steps or --trainer.max_epochs, over which the learning rate is "
        "planned; --trainer.max_time may still end it earlier",
    )


def make_schedule(optimizer: Optimizer, settings: OptimizerSettings, total_steps: int) -> LambdaLR:
    """The schedule, to be stepped after each of `total_steps` optimizer steps."""
    return LambdaLR(optimizer, lambda step: rate(step / max(total_steps, 1), settings))


def rate(progress: float, settings: OptimizerSettings) -> float:
    """Share of the highest learning rate at `progress`, the share of all steps done."""
    if progress < settings.warmup:
        # The first step already moves: half a percent of the way up, not zero.
        return max(progress / settings.warmup, 0.005)
    match settings.schedule:
        case "constant":
            return 1.0
        case "steps":
            return float(0.1 ** sum(progress >= mark for mark in settings.milestones))
        case "cosine":
            down = (progress - settings.warmup) / (1 - settings.warmup)
            return 0.5 * (1 + math.cos(math.pi * min(down, 1.0)))
