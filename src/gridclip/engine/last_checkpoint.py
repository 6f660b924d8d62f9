"""The checkpoint of a run: always one, always whole, and never of weights that are no numbers."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from gridclip.engine.divergence import require_finite_weights
from gridclip.engine.stop_requests import StopRequests
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import written_whole


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint, `last.ckpt`: of each epoch's end, before validations, of steps between.

    It replaces the one before when it is whole and on the disk, so there is always one to resume
    from. A step with a validation has one before it, since a validation may take longer than a
    process that is asked to stop has left; a training that is resumed from that one validates
    first. Where a checkpoint is due at that step, another follows the validation.

    Args:
        folder: Folder of the checkpoint.
        every_steps: Optimizer steps between checkpoints within an epoch; None writes none.
        requests: Who asks the training to stop, if anybody can.
    """

    def __init__(
        self, folder: Path, every_steps: int | None = None, requests: StopRequests | None = None
    ) -> None:
        if every_steps is not None:
            require_at_least(1, checkpoint_every_steps=every_steps)
        self.file, self.every_steps, self.requests = folder / "last.ckpt", every_steps, requests
        self.step = 0  # of the last checkpoint
        self.stopping = False
        self.images = 0  # that all processes have trained on
        self.validates: int | None = None  # epoch of a validation that follows the checkpoint
        self.place: tuple[int, int] | None = None  # of the run folder, on its disk

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed training has to do before its first step, and what it has seen."""
        return {"validates": self.validates, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers both."""
        self.validates, self.images = state_dict["validates"], state_dict["images"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has whole files written, unless the strategy or a plugin writes its own kind."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes sure that all processes are at one step, and validates if that is still to do.

        Raises:
            InputError: if a process has not the checkpoint that another goes on from.
        """
        _require_same_step(trainer)
        if trainer.is_global_zero and self.file.parent.parent.is_dir():
            self.place = _place(self.file.parent.parent)
        if self.validates is not None:
            _validate(trainer, epoch=self.validates)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """Saves before a validation, where it is due or asked, but for the end of the epoch."""
        self.images += len(getattr(batch, "records", ())) * trainer.world_size
        loop: Any = trainer.fit_loop.epoch_loop
        between = loop._should_accumulate()  # gradients are summed up, and no checkpoint has them
        validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher) and not between
        self.stopping = not between and self.requests is not None and self.requests.agreed()
        if validates:
            self.validates = trainer.current_epoch
            self.save(trainer)
        elif (self._due(trainer) or self.stopping) and not trainer.is_last_batch:
            self.save(trainer)
        if self.stopping and (validates or not trainer.is_last_batch):
            self._leave()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after a validation within an epoch."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validates = None
        if self._due(trainer, again=True) and not trainer.is_last_batch:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, also where the last step falls within an epoch."""
        self.save(trainer)
        if self.stopping:
            self._leave()

    def save(self, trainer: Trainer) -> None:
        """Writes the checkpoint; every process must call it.

        Raises:
            InputError: if weights are no numbers, or the run folder has been removed.
        """
        if bool(getattr(trainer, "fast_dev_run", False)):
            return
        require_finite_weights(trainer.lightning_module, trainer.global_step)
        folder = self.file.parent.parent
        if self.place is not None and (not folder.is_dir() or _place(folder) != self.place):
            raise InputError(
                "the run folder was removed, or another stands in its place",
                file=folder,
                field="run_dir",
                fix="begin the training again, and leave its folder where it is until it has ended",
            )
        if trainer.is_global_zero:
            for left in self.file.parent.glob(f".{self.file.name}.*.part"):
                left.unlink()  # a process was killed while it wrote
        trainer.save_checkpoint(self.file)  # every process takes part, the first one writes
        self.step = trainer.global_step

    def _leave(self) -> None:
        assert self.requests is not None  # who asked
        self.requests.leave(f"{self.file} is of this step")

    def _due(self, trainer: Trainer, *, again: bool = False) -> bool:
        step = trainer.global_step
        return (
            trainer.state.fn == "fit"
            and self.every_steps is not None
            and step % self.every_steps == 0
            and (step > self.step or again)  # not again while gradients are accumulated
        )


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one before, has it on the disk, and only then renames it.

    Lightning writes it into the system's temporary folder, which may be small, and copies it.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,  # noqa: ANN401 - Lightning's signature
    ) -> None:
        """Writes one.

        Raises:
            OSError: if the disk is full, or the like; torch says something else of its own file.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with written_whole(Path(path), durable=True) as part:
            part.write_bytes(content.getbuffer())


def _place(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _require_same_step(trainer: Trainer) -> None:
    """Refuses processes that begin at different steps, one from a checkpoint, one without.

    Raises:
        InputError: with the steps.
    """
    if trainer.world_size == 1:
        return
    own = torch.tensor(trainer.global_step, device=trainer.strategy.root_device)
    steps = sorted(set(trainer.strategy.all_gather(own).flatten().tolist()))
    if len(steps) > 1:
        raise InputError(
            f"the processes would go on from different steps: {', '.join(map(str, steps))}",
            field="run_dir",
            fix="give a folder on a disk that all machines share",
        )


def _validate(trainer: Trainer, *, epoch: int) -> None:
    """Runs the validation that followed the checkpoint; Lightning takes it for done.

    Args:
        trainer: Of a training that was resumed and has not begun.
        epoch: The completed ones when the checkpoint was written; at the end of an epoch, Lightning
            has by now added it.
    """
    loop = trainer.fit_loop
    counted = loop.epoch_progress.current.completed
    loop.epoch_progress.current.completed = epoch
    trainer.validating = True
    loop.epoch_loop.val_loop.run()
    trainer.training = True
    loop.epoch_progress.current.completed = counted
