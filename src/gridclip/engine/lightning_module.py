"""The thin Lightning shell: step, log, optimise; no maths."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from gridclip.data.datamodules.base import EvaluatedData
from gridclip.data.datamodules.loaders import ReadBatch
from gridclip.data.precomputed.stored import StoredRegions
from gridclip.engine.optimizers import (
    OptimizerSettings,
    make_optimizer,
    make_schedule,
    planned_steps,
)
from gridclip.evaluation.false_alarms import LIMIT
from gridclip.evaluation.lvis import Metrics, Protocol
from gridclip.evaluation.metric import LVISAveragePrecision
from gridclip.io.downloads import fetch, is_address
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.state_dicts import read_torch
from gridclip.models.base import Detector
from gridclip.structures import Batch, DetectionBatch, Detections, Vocabulary

FINGERPRINT = "frozen"
"""Key of a checkpoint: which frozen networks its weights were trained with."""

TRAINED_ON = "trained_on"
"""Key of a checkpoint: the names it was trained on."""

_FIX = "give a .ckpt of a run"


class DetectionSystem(LightningModule):
    """Trains and evaluates any detector.

    Args:
        detector: What is trained.
        optimizer: How it is trained.
        protocol: How average precision is counted: `standard` (300 boxes an image) or `fixed`
            (10 000 boxes a category).
        false_alarms: How many boxes of a name that is verified to be absent from an image APfa
            allows, on average; it is the AP of the boxes above the score that keeps to it.
        channels_last: Keep feature maps channels last in memory, which convolutions on CPUs and on
            tensor cores like best.
        compile: Compile the networks when they first run: minutes once, then faster steps, on
            images of few sizes.
        init_from: A checkpoint whose weights start the training ("warm start"): of this very model,
            or of a region encoder's pre-training, which then starts the backbone. To go on with an
            interrupted run use --ckpt_path, which restores everything, the settings too.
    """

    def __init__(
        self,
        detector: Detector,
        optimizer: OptimizerSettings = OptimizerSettings(),
        protocol: Protocol = "standard",
        false_alarms: float = LIMIT,
        channels_last: bool = True,
        init_from: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        require_at_least(0, false_alarms=false_alarms)
        self.false_alarms = false_alarms
        self.detector, self.settings, self.protocol = detector, optimizer, protocol
        self.metrics: Metrics | None = None
        self.unread: list[str] = []  # of a prediction
        self.average_precision: LVISAveragePrecision | None = None
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if init_from is not None:
            start_from(self, Path(init_from))
        if compile:
            compile_networks(detector)

    @property
    def data(self) -> EvaluatedData | None:
        """The data module, if the batches come from one that can be evaluated on."""
        data = getattr(self.trainer, "datamodule", None)  # Lightning sets it where there is one
        return data if isinstance(data, EvaluatedData) else None

    def on_fit_start(self) -> None:
        """Refuses stored embeddings of another teacher, or another view, than this training's.

        Raises:
            InputError: naming both.
        """
        stored = {} if self.data is None else self.data.stored_embeddings
        for field, each in stored.items():
            teacher = self.detector.teacher_fingerprint()
            if teacher not in (None, each.fingerprint):
                raise InputError(
                    f"the embeddings are of {each.fingerprint}, the teacher is {teacher}",
                    file=each.file,
                    field=f"data.{field}",
                    fix="embed the images with this teacher, or name that one",
                )
            view = self.detector.region_view
            if isinstance(each, StoredRegions) and view not in (None, each.view):
                raise InputError(
                    f"the teacher was shown regions in the view {each.view!r}, not in {view!r}",
                    file=each.file,
                    field=f"data.{field}",
                    fix=f"store them again (gridclip clip embed-proposals --view {view}), or set "
                    f"the detector's view to {each.view}",
                )

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Seeds what is random in networks (dropout) by the step, so that a resume repeats it."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        step = (seed, self.trainer.current_epoch, index, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))
        self.detector.progress = self.trainer.global_step / max(1, planned_steps(self.trainer))

    def training_step(self, batch: Batch, index: int) -> dict[str, Any]:
        """Returns the sum of the losses, and each; all are logged, kinds of batch apart."""
        losses = self.detector.losses(batch)
        if isinstance(batch, DetectionBatch):
            self.detector.meet(batch.vocabulary)
        total = torch.stack([*losses.values()]).sum() + self._touch_all()
        group = batch.log_group
        logged = {f"{group}{name}": loss for name, loss in losses.items()}
        self.log_dict(logged, batch_size=len(batch.records))
        self.log(f"{group}loss", total, prog_bar=True, batch_size=len(batch.records))
        return {"loss": total, "losses": logged}

    def on_validation_epoch_start(self) -> None:
        """Begins a new count over the annotation file that the data module names."""
        data = self.data
        assert data is not None  # others have nothing to evaluate on
        if self.average_precision is None:
            annotations = data.val_set.annotations
            self.average_precision = LVISAveragePrecision(
                annotations, self.protocol, self.false_alarms, masks=self.detector.finds_masks
            )
        self.average_precision.to(self.device).reset()
        self.category_ids = data.category_ids.to(self.device)

    def validation_step(self, batch: DetectionBatch, index: int) -> dict[str, list[Detections]]:
        """Detects, and counts what was found; callbacks get the detections."""
        assert self.average_precision is not None  # made when the epoch started
        detections = self.detector.detect(batch.images, batch.vocabulary, batch.records)
        self.average_precision.update(batch.records, detections, self.category_ids)
        return {"detections": detections}

    def on_validation_epoch_end(self) -> None:
        """Logs the average precisions of all, rare, common and frequent names."""
        assert self.average_precision is not None
        self.metrics = self.average_precision.compute()
        self.log_dict(self.metrics.scalars("val/"), rank_zero_only=False)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    on_predict_epoch_start = on_validation_epoch_start

    def predict_step(self, batch: ReadBatch, index: int) -> dict[str, list[Detections]]:
        """Detects in what could be read, and keeps what is wrong with the other images."""
        self.unread += batch.unread
        if batch.readable is None:
            return {"detections": []}
        return self.validation_step(batch.readable, index)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leaves weights that this kind of batch did not read as they are: no decay, no momentum.

        AdamW would move them on along gradients of other batches, and the more so the rarer their
        own kind is. Gradients are by now the same in all processes, so all leave out the same ones.
        """
        if self._mixes_kinds:
            weights = [weight for weight in self.parameters() if weight.grad is not None]
            learns = torch.stack([weight.grad.any() for weight in weights])  # type: ignore[union-attr]
            for weight, moves in zip(weights, learns.tolist(), strict=True):
                weight.grad = weight.grad if moves else None

    @property
    def _mixes_kinds(self) -> bool:
        return self.data is not None and self.data.mixed

    def _touch_all(self) -> Tensor | float:
        """Zero; where two kinds of batch are mixed, by way of every weight that is trained.

        No kind reads all of them: boxes teach nothing to what only image-level losses read, and the
        other way round. Processes that train together (DDP) wait for the gradient of every weight.
        """
        if not self._mixes_kinds:
            return 0.0
        trained = [weight.sum() for weight in self.parameters() if weight.requires_grad]
        return 0.0 * torch.stack(trained).sum()

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union of nine forms
        """The optimizer, and its schedule over all steps of the training."""
        optimizer = make_optimizer(self.detector, self.settings)
        schedule = make_schedule(optimizer, self.settings, planned_steps(self.trainer))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the fingerprint of frozen networks, which are not in it, and the trained names."""
        checkpoint[FINGERPRINT] = self.detector.fingerprint()
        names = self.detector.trained_on
        checkpoint[TRAINED_ON] = None if names is None else list(names.names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another model, with what differs."""
        _complete(self, checkpoint)
        check_weights(self, checkpoint, "--ckpt_path")
        self.detector.trained_on = _trained_on(checkpoint)


def compile_networks(detector: Detector) -> None:
    """Lets torch compile the parts that have weights of their own, each when it first runs."""
    for part in detector.children():
        if next(part.parameters(), None) is not None:
            part.compile()


def check_weights(system: DetectionSystem, checkpoint: dict[str, Any], source: str | Path) -> None:
    """Compares a checkpoint with the model: tensors by name and shape, and the text vectors.

    Raises:
        InputError: with the first differences, if the checkpoint belongs to another model.
    """
    own, state = system.state_dict(), checkpoint.get("state_dict", {})
    differences = [f"{name} is missing" for name in own if name not in state]
    differences += [f"{name} is unknown" for name in state if name not in own]
    differences += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if differences:
        raise InputError(
            f"is a checkpoint of another model: {len(differences)} tensors differ, first: "
            + "; ".join(differences[:3]),
            file=source,
            fix="use the configuration this checkpoint was trained with: config.yaml beside it",
        )
    if checkpoint.get(FINGERPRINT) != system.detector.fingerprint():
        raise InputError(
            "was trained with other text vectors than those at hand",
            file=source,
            field="text",
            fix="restore the text tower or the vectors of that training, or train again",
        )


def load_weights(
    system: DetectionSystem, file: Path, checkpoint: dict[str, Any] | None = None
) -> None:
    """Loads the weights of a checkpoint, and nothing else of it.

    Args:
        system: What to fill.
        file: The checkpoint.
        checkpoint: What was read of it before, if it was.

    Raises:
        InputError: if the file is missing, unreadable, or a checkpoint of another model.
    """
    checkpoint = checkpoint or read_checkpoint(file)
    _complete(system, checkpoint)
    check_weights(system, checkpoint, file)
    system.load_state_dict(checkpoint["state_dict"])
    system.detector.trained_on = _trained_on(checkpoint)


def _complete(system: DetectionSystem, checkpoint: dict[str, Any]) -> None:
    """Adds to a checkpoint of an earlier version what the detector has had since."""
    state, prefix = checkpoint.get("state_dict", {}), "detector."
    names = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    for name, start in system.detector.younger(names).items():
        state[prefix + name] = start


def start_from(system: DetectionSystem, file: Path) -> None:
    """Loads a checkpoint of the same model, or of another one by which the detector can start.

    Raises:
        InputError: if the file is missing, unreadable, or fits neither way.
    """
    state = read_checkpoint(file)["state_dict"]
    same = state.keys() == system.state_dict().keys()
    if same or not system.detector.initialise_from(state, file):
        load_weights(system, file)
        system.detector.remember()


def readable_checkpoint(given: str) -> Path:
    """Returns the file of a checkpoint that Lightning may read; one of the web is fetched.

    Args:
        given: --ckpt_path: a file, or an address of http or https.

    Raises:
        InputError: if it is neither, or holds something else than numbers, text and tensors.
    """
    file = fetch(given, field="ckpt_path") if is_address(given) else Path(given)
    read_checkpoint(file)
    return file


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Returns what a checkpoint holds: numbers, text and tensors.

    Raises:
        InputError: if the file is missing, or anything else.
    """
    checkpoint = read_torch(file, fix=_FIX)
    if not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError("is no checkpoint: it has no state_dict", file=file, fix=_FIX)
    return checkpoint


def _trained_on(checkpoint: dict[str, Any]) -> Vocabulary | None:
    names = checkpoint.get(TRAINED_ON)
    return Vocabulary(names) if names else None
