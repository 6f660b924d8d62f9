"""Going on with a training: from where, and only as it began."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Shaped
from lightning import Trainer

from gridclip.data.dataset import DetectionDataset
from gridclip.data.sampling import Position
from gridclip.data.unboxed.image_level import ImageLevelSource
from gridclip.errors import InputError


def position(trainer: Trainer) -> Position:
    """Where a training is by the trainer's own counters, which its checkpoints keep.

    To be asked when the first batch of an epoch, or of the rest of one, is wanted: by then
    Lightning has restored and mended them. `ready` counts batches handed out for training.
    """
    done: int = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return Position(trainer.current_epoch, done)


def fingerprint(dataset: DetectionDataset, source: ImageLevelSource | None = None) -> str:
    """Name what is trained on by its content: images, boxes, labels, vocabularies."""
    annotations = dataset.annotations
    columns = [annotations.image_ids, dataset.images, dataset.sizes]
    columns += [dataset.boxes.values, dataset.boxes.offsets, dataset.labels.values]
    names = [*dataset.vocabulary.names]
    if source is not None:
        columns.append(source.sizes)
        names += source.vocabulary.names
    return f"{len(dataset)} ({digest(names, columns)})"


def digest(names: Iterable[str], columns: Iterable[Shaped[np.ndarray, "..."]]) -> str:
    """Give a short name for texts and arrays; it changes with any of them."""
    found = hashlib.blake2b("\0".join(names).encode(), digest_size=8)
    for column in columns:
        found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()


def require_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what decides which images a step sees, of a checkpoint and of this training.

    Raises:
        InputError: naming all that differs.
    """
    different = [name for name in now if name in before and before[name] != now[name]]
    if different:
        told = "; ".join(f"{name} was {before[name]}, now {now[name]}" for name in different)
        raise InputError(
            f"the checkpoint's training went otherwise: {told}",
            field="--ckpt_path",
            fix="resume it as it began, or begin a new training with its weights by "
            "--model.init_from",
        )
