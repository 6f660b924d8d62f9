"""Zero-shot accuracy of a CLIP model in the mini world."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gridclip.data.synthetic.mini_captions import draw_close_up, near_miss
from gridclip.data.synthetic.mini_world import KINDS, NAMES, RARE_COMBINATIONS, RARE_SHAPES, is_base
from gridclip.data.synthetic.painter import Kind, Scene, draw_scene
from gridclip.models.encoders.open_clip import RANDOM, ClipModel, pixels_of
from gridclip.models.encoders.text import average_prompts

Accuracies = dict[str, float]
_BINDING_SCENES = 512
_GROUPS: dict[str, Callable[[Kind], bool]] = {
    "all": lambda kind: True,
    "base": is_base,
    "rare_combinations": lambda kind: kind in RARE_COMBINATIONS,
    "rare_shapes": lambda kind: kind.shape in RARE_SHAPES,
}


@torch.no_grad()
def zero_shot(
    model: Any,  # noqa: ANN401 - any open_clip model
    *,
    seed: int = 0,
    images_per_kind: int = 8,
) -> dict[str, Accuracies]:
    """Classifies fresh images of single objects among the names of all kinds.

    The name's vector is the mean over the prompts that the detector's text bank uses by default.

    Args:
        model: An open_clip model in evaluation mode, with the mini CLIP's tokenizer.
        seed: Decides the images, which are none of those trained on.
        images_per_kind: Images of each of the 288 kinds, for each way of drawing them.

    Returns:
        For objects as in the data set's scenes ("in_scene") and enlarged crops ("close_up"): top-1
        accuracy over all kinds and by group, and that of each attribute of the top name. For
        scenes of three objects ("near_miss"): how often the true caption scores above one with two
        attributes swapped or one changed.
    """
    rng = np.random.default_rng([seed, 1 << 32])  # training seeds its images otherwise
    kinds = KINDS * images_per_kind
    names = text_vectors(model, NAMES)
    _, side = pixels_of(model.visual)
    in_scene = [draw_scene(rng, [kind], size=side) for kind in kinds]
    close_up = [draw_close_up(rng, kind, side) for kind in kinds]
    return {
        "in_scene": _accuracies(image_vectors(model, in_scene) @ names.T, kinds),
        "close_up": _accuracies(image_vectors(model, close_up) @ names.T, kinds),
        "near_miss": _binding(model, rng, side),
    }


@torch.no_grad()
def text_vectors(model: Any, names: Sequence[str]) -> Float[np.ndarray, "K D"]:  # noqa: ANN401
    """Unit vectors of names, each the mean over the prompts."""
    return F.normalize(average_prompts(partial(encode_sentences, model), names), dim=-1).numpy()


@torch.no_grad()
def image_vectors(model: Any, scenes: Sequence[Scene]) -> Float[np.ndarray, "B D"]:  # noqa: ANN401
    """Unit vectors of scenes of the model's own size."""
    norm, vectors = pixels_of(model.visual)[0], []
    for start in range(0, len(scenes), 64):
        images = np.stack([scene.pixels for scene in scenes[start : start + 64]])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        vectors.append(F.normalize(model.encode_image(norm(pixels)), dim=-1))
    return torch.cat(vectors).numpy()


def _accuracies(scores: Float[np.ndarray, "B K"], truth: Sequence[Kind]) -> Accuracies:
    """Top-1 accuracy over all and by group, and that of each attribute of the top name."""
    top = [KINDS[row] for row in scores.argmax(1)]
    right = np.array([found == kind for found, kind in zip(top, truth, strict=True)])
    groups = {
        name: right[[belongs(kind) for kind in truth]].mean() for name, belongs in _GROUPS.items()
    }
    attributes = (np.array(top) == np.array(truth)).mean(0)
    named = {**groups, **dict(zip(Kind._fields, attributes, strict=True))}
    return {name: round(float(share), 4) for name, share in named.items()}


def _binding(model: Any, rng: np.random.Generator, side: int) -> Accuracies:  # noqa: ANN401
    """How often a scene of three objects is closer to its caption than to a near miss of it."""
    scenes: list[Scene] = []
    captions: list[str] = []
    while len(scenes) < _BINDING_SCENES:
        scene = draw_scene(rng, [KINDS[row] for row in rng.integers(len(KINDS), size=3)], size=side)
        if len(scene.kinds) > 1:
            scenes.append(scene)
            captions += [_listing(scene.kinds), _listing(near_miss(rng, scene.kinds))]
    images = image_vectors(model, scenes)
    texts = F.normalize(encode_sentences(model, captions), dim=-1).numpy()
    gap = (images * (texts[0::2] - texts[1::2])).sum(1)
    return {"all": round(float((gap > 0).mean()), 4)}


def _listing(kinds: Sequence[Kind]) -> str:
    return "a photo of " + " and ".join(f"a {' '.join(kind)}" for kind in kinds)


def encode_sentences(model: Any, sentences: list[str]) -> Float[Tensor, "K D"]:  # noqa: ANN401
    """Returns vectors, of any length, of sentences from the text tower of a mini CLIP."""
    vectors: Tensor = model.encode_text(_tokenizer()(sentences))
    return vectors


@cache
def _tokenizer() -> Callable[[list[str]], Int[Tensor, "K L"]]:
    """The mini CLIP's tokenizer, looked up once."""
    return ClipModel(weights=RANDOM).tokenizer()
