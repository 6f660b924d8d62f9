"""Stops a training whose loss or weights are no numbers any more, and says at which step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from gridclip.io.errors import InputError

_FIX = (
    "lower the learning rate, or look at the images of that step; what was saved before is of an "
    "earlier step, and finite"
)


class Judged(NamedTuple):
    """A step, and whether it went wrong, which a GPU may not have found out yet."""

    step: int
    wrong: Bool[Tensor, ""]
    losses: Mapping[str, Tensor]


class StopAtNonFiniteLoss(Callback):
    """Ends a fit at the first step whose loss is infinite or not a number.

    All processes end at the same step. A single process with a GPU is asked a step later, when the
    answer is there: asking at once would have each step wait for the GPU. Nothing is saved
    meanwhile, because weights that are no numbers are not saved either.
    """

    def __init__(self) -> None:
        self.pending: Judged | None = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        *_: Any,  # noqa: ANN401 - Lightning's signature
    ) -> None:
        """Looks at the loss of this step, or of the one before.

        Raises:
            InputError: naming the step and its losses.
        """
        loss = outputs["loss"].detach()
        wrong = ~loss.isfinite()
        several = trainer.world_size > 1
        if several:
            worst: Any = trainer.strategy.reduce(wrong.float(), reduce_op="max")
            wrong = worst > 0
        now = Judged(trainer.global_step, wrong, outputs.get("losses") or {"loss": loss})
        before, self.pending = self.pending, now
        judged = now if several or loss.device.type == "cpu" else before
        if judged is not None:
            _refuse(judged)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the loss of the last step."""
        if self.pending is not None:
            _refuse(self.pending)


def require_finite_loss(loss: Tensor, step: int) -> None:
    """Refuses a loss that is infinite or not a number.

    Raises:
        InputError: naming the step, from 1, and the loss.
    """
    _refuse(Judged(step, ~loss.detach().isfinite(), {"loss": loss}))


def _refuse(judged: Judged) -> None:
    if judged.wrong:
        told = ", ".join(f"{name} {value.item():g}" for name, value in judged.losses.items())
        raise InputError(f"the loss is not finite at step {judged.step}: {told}", fix=_FIX)


def require_finite_weights(model: nn.Module, step: int) -> None:
    """Refuses weights that are no numbers, before they replace what was saved.

    Raises:
        InputError: naming the step and the first of them.
    """
    named = dict(model.named_parameters())
    finite = torch.stack([weight.detach().isfinite().all() for weight in named.values()])
    wrong = [name for name, good in zip(named, finite.tolist(), strict=True) if not good]
    if wrong:
        problem = f"{len(wrong)} weights are not finite at step {step}, first: {wrong[0]}"
        raise InputError(problem, fix=_FIX)
