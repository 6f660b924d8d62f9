"""Trains the mini CLIP on drawn images with captions, and records its zero-shot accuracy."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from gridclip.data.synthetic.mini_captions import MiniPairs, PairBatch
from gridclip.engine.clip_training.zero_shot import encode_sentences, zero_shot
from gridclip.engine.divergence import require_finite_loss, require_finite_weights
from gridclip.io.errors import require_at_least
from gridclip.io.files import require_writable, write_text, written_whole
from gridclip.models.encoders.attention_pool import interpolate_positions
from gridclip.models.encoders.open_clip import (
    MINI_FOLDER,
    MINI_RECORD,
    MINI_WEIGHTS,
    RANDOM,
    ClipModel,
    pixels_of,
)
from gridclip.ops.losses import info_nce

_STRIDE = 32  # of the image tower
_WARM_UP = 100  # steps


class _Phase(NamedTuple):
    """A part of the training with images of one size."""

    share: float  # of all steps
    side: int
    batch_size: int
    most: int  # objects of an image


# Small images are four times cheaper and teach words and filters; the full size then teaches the
# attention pool to look around. Objects have the same size in pixels in both.
_PHASES = (_Phase(0.75, 64, 256, 2), _Phase(0.25, 128, 128, 4))


@dataclass(frozen=True, kw_only=True)
class _Settings:
    seed: int
    steps: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps)
        require_at_least(
            0, seed=self.seed, learning_rate=self.learning_rate, weight_decay=self.weight_decay
        )

    def command(self) -> str:
        """What to type for the same weights."""
        options = [f"--{name} {value}" for name, value in asdict(self).items()]
        return " ".join(["gridclip clip train", *options])


def train_mini_clip(
    output: Path = MINI_FOLDER,
    seed: int = 0,
    steps: int = 4000,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
) -> None:
    """Train the mini CLIP by symmetric InfoNCE; write its weights and how good they are.

    Scenes are drawn on the fly. The same arguments give the same weights on one machine.

    Args:
        output: Folder for gridclip-mini.safetensors and record.json; by default the package's own.
        seed: Decides the first weights and every image.
        steps: Optimiser steps, three quarters of them on small images.
        learning_rate: AdamW's highest rate; it warms up, then falls as a cosine.
        weight_decay: AdamW's decay of matrices and filters, save the table of words.

    Raises:
        InputError: if an argument is out of range, or the folder cannot be written.
    """
    settings = _Settings(
        seed=seed, steps=steps, learning_rate=learning_rate, weight_decay=weight_decay
    )
    require_writable(output / MINI_WEIGHTS.name)
    torch.manual_seed(seed)
    began = time.monotonic()
    model = ClipModel(weights=RANDOM).create().train()
    _fit(model, settings)
    _round_to_half(model)
    require_finite_weights(model, steps)
    record: dict[str, object] = {
        "command": settings.command(),
        **asdict(settings),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "zero_shot": zero_shot(model.eval(), seed=seed),
    }
    _save(model, record, output)
    Console().print_json(json.dumps(record))


def _fit(model: nn.Module, settings: _Settings) -> None:
    optimizer, console, began = _optimizer(model, settings), Console(), time.monotonic()
    for step, batch in enumerate(_batches(settings.seed, settings.steps)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings.steps)
        loss = contrastive_loss(model, batch)
        require_finite_loss(loss, step + 1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == settings.steps - 1:
            passed = time.monotonic() - began
            console.print(
                f"step {step + 1} of {settings.steps}, loss {loss.item():.3f}, {passed:.0f} s"
            )
    _forget_unused_words(model, optimizer)


def contrastive_loss(model: Any, batch: PairBatch) -> Float[Tensor, ""]:  # noqa: ANN401
    """Symmetric InfoNCE over the batch, at the model's own temperature."""
    images = F.normalize(_embed(model.visual, batch.pixels), dim=-1)
    texts = F.normalize(encode_sentences(model, batch.captions), dim=-1)
    return info_nce(images, texts, (-model.logit_scale).exp())


def _embed(tower: Any, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:  # noqa: ANN401
    """Embeds images of any size: the table of positions is interpolated, and learns through it."""
    side = pixels.shape[-1] // _STRIDE
    table = interpolate_positions(tower.attnpool.positional_embedding, side, side)
    norm, _ = pixels_of(tower)
    inputs = norm(pixels).to(memory_format=torch.channels_last)
    embeddings: Tensor = functional_call(tower, {"attnpool.positional_embedding": table}, (inputs,))
    return embeddings


def _batches(seed: int, steps: int) -> Iterator[PairBatch]:
    """All batches of the training, drawn by one worker while the last one is learnt."""
    done = 0
    for number, phase in enumerate(_PHASES):
        stop = steps if number == len(_PHASES) - 1 else done + round(phase.share * steps)
        pairs = MiniPairs(
            seed=seed,
            batches=stop - done,
            batch_size=phase.batch_size,
            side=phase.side,
            most=phase.most,
        )
        yield from DataLoader(pairs, batch_size=None, num_workers=1, prefetch_factor=4)
        done = stop


def _optimizer(model: nn.Module, settings: _Settings) -> torch.optim.AdamW:
    """AdamW that decays matrices and filters, but neither vectors nor the table of words."""
    named = dict(model.named_parameters())
    decayed = [p for name, p in named.items() if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in named.items() if p.ndim <= 1 or "embedding" in name]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def _schedule(step: int, steps: int) -> float:
    """Share of the highest rate: a linear rise, then a cosine to zero."""
    return min((step + 1) / _WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))


@torch.no_grad()
def _forget_unused_words(model: Any, optimizer: torch.optim.AdamW) -> None:  # noqa: ANN401
    """Sets the rows of words that no caption held to zero, which lets the file compress."""
    words = model.token_embedding.weight
    never = optimizer.state[words]["exp_avg_sq"].sum(1) == 0
    words[never] = 0


def _round_to_half(model: nn.Module) -> None:
    """Makes the weights what the file will hold, so that this is what is judged."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def _save(model: nn.Module, record: dict[str, object], output: Path) -> None:
    """Writes both files whole, the record last."""
    from safetensors.torch import save_file

    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    with written_whole(output / MINI_WEIGHTS.name) as part:
        save_file(state, part, metadata={"format": "pt"})
    write_text(output / MINI_RECORD.name, json.dumps(record, indent=2) + "\n")
