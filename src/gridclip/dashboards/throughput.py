"""How fast a training goes."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from gridclip.structures import DetectionBatch, ImageBatch


class Throughput(Callback):
    """Logs train/images_per_second: over all processes, loading included, validation not."""

    def __init__(self) -> None:
        self._restart()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin again, without the time that the validation took."""
        self._restart()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: DetectionBatch | ImageBatch,
        batch_idx: int,
    ) -> None:
        """Count the images of a step, and log where Lightning logs."""
        self.images += len(batch.records) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self.started
            for logger in trainer.loggers:
                figures = {"train/images_per_second": self.images / seconds}
                logger.log_metrics(figures, step=trainer.global_step)
            self._restart()

    def _restart(self) -> None:
        self.images, self.started = 0, time.perf_counter()
