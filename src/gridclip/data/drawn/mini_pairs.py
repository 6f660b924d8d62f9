"""Pictures of the mini world with captions, drawn on the fly, to train the mini CLIP on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.drawn.drawing import COLOURS, SHAPES, TEXTURES, Kind, Scene, draw_scene
from gridclip.data.drawn.mini_world import KINDS, describe

_VALUES = (tuple(COLOURS), TEXTURES, tuple(SHAPES))
_CLOSE_UPS = 0.3  # share among pictures of a single object


class PairBatch(NamedTuple):
    """Pictures and what they show."""

    pixels: UInt8[Tensor, "B 3 S S"]
    captions: list[str]


class MiniPairs(Dataset[PairBatch]):
    """Batches of captioned pictures; batch i depends on the seed and i alone.

    Half of a batch shows one object each, all of different kinds. The other half shows several, in
    pairs of near misses, so that a caption must say what belongs to what. Rare kinds are as
    frequent as any, as the captions of the real CLIP knew rare words.

    Args:
        seed: Decides every picture.
        batches: How many batches there are.
        batch_size: Pictures of a batch, a multiple of 4, at most twice the number of kinds.
        side: Side of the pictures in pixels; objects measure 20 to 56 at any side.
        most: Most objects of a picture.
    """

    def __init__(self, *, seed: int, batches: int, batch_size: int, side: int, most: int) -> None:
        self.seed, self.batches, self.batch_size = seed, batches, batch_size
        self.side, self.most = side, most

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> PairBatch:
        """Draw one batch."""
        if not 0 <= index < self.batches:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.side, index])
        singles = rng.permutation(len(KINDS))[: self.batch_size // 2].tolist()
        scenes = [self._single(rng, KINDS[row]) for row in singles]
        for _ in range(self.batch_size // 4):
            kinds = [
                KINDS[row] for row in rng.integers(len(KINDS), size=rng.integers(2, self.most + 1))
            ]
            scenes += [self._several(rng, kinds), self._several(rng, near_miss(rng, kinds))]
        pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))
        return PairBatch(
            pixels.permute(0, 3, 1, 2).contiguous(),
            [describe(rng, scene.kinds) for scene in scenes],
        )

    def _single(self, rng: np.random.Generator, kind: Kind) -> Scene:
        if rng.random() < _CLOSE_UPS:
            return draw_close_up(rng, kind, self.side)
        return draw_scene(rng, [kind], size=self.side)

    def _several(self, rng: np.random.Generator, kinds: Sequence[Kind]) -> Scene:
        largest = min(56, round(0.56 * self.side))  # two find room even in a picture of 64 pixels
        return draw_scene(rng, kinds, size=self.side, object_sizes=(20, largest))


def draw_close_up(rng: np.random.Generator, kind: Kind, side: int) -> Scene:
    """One object that fills the picture, enlarged twice, as a detector would crop it.

    Args:
        rng: Decides the rest.
        kind: What to show.
        side: Side of the picture in pixels; box and area are those before enlarging.
    """
    half = side // 2
    sizes = (round(0.6 * half), round(0.95 * half))
    scene = draw_scene(rng, [kind], size=half, object_sizes=sizes)
    large = Image.fromarray(scene.pixels).resize((side, side), Image.Resampling.BICUBIC)
    return scene._replace(pixels=np.asarray(large))


def near_miss(rng: np.random.Generator, kinds: Sequence[Kind]) -> list[Kind]:
    """The same objects, but two have swapped one attribute, or one has another value of it.

    Args:
        rng: Decides which.
        kinds: At least two.
    """
    attribute = int(rng.integers(3))
    one, two = rng.choice(len(kinds), 2, replace=False).tolist()
    values = [list(kind) for kind in kinds]
    values[one][attribute], values[two][attribute] = values[two][attribute], values[one][attribute]
    swapped = [Kind(*value) for value in values]
    if sorted(swapped) != sorted(kinds):
        return swapped
    others = [value for value in _VALUES[attribute] if value != kinds[one][attribute]]
    values = [list(kind) for kind in kinds]
    values[one][attribute] = others[int(rng.integers(len(others)))]
    return [Kind(*value) for value in values]
