"""Pictures of cut-outs with the names they show, and no boxes: what a teacher is fitted to."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.drawn.scenes import SceneSettings, draw_scene
from gridclip.data.drawn.sprites import Sprite, Sprites, open_sprite


class NamedPictures(NamedTuple):
    """Pictures and what they show, without where."""

    pixels: UInt8[Tensor, "B 3 S S"]
    shown: Float[Tensor, "B C"]  # 1 for each category of the sprites that is in the picture


class SpritePictures(Dataset[NamedPictures]):
    """Batches of pictures; batch i depends on the seed and i alone.

    Half of a batch are close-ups of one object each; the other half are scenes like those of
    `gridclip data compose`, scaled down. All names are equally frequent, rare ones too, as the
    captions of CLIP knew rare words.

    Args:
        sprites: The cut-outs to draw from.
        seed: Decides every picture.
        batches: How many batches there are.
        batch_size: Pictures of a batch.
        side: Side of the pictures in pixels.
        scene: What the scenes look like at their own size.
    """

    def __init__(
        self,
        sprites: Sprites,
        *,
        seed: int,
        batches: int,
        batch_size: int,
        side: int,
        scene: SceneSettings,
    ) -> None:
        self.drawings, self.width = sprites.by_category(), len(sprites.categories)
        self.rows = np.array(list(self.drawings))
        self.seed, self.batches, self.batch_size, self.side = seed, batches, batch_size, side
        shortest, longest = (max(8, round(length * side / scene.size)) for length in scene.sides)
        self.scene = SceneSettings(
            size=side,
            objects=scene.objects,
            sides=(shortest, longest),
            lean=scene.lean,
            hidden=scene.hidden,
        )

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> NamedPictures:
        """Draw one batch."""
        if not 0 <= index < self.batches:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        fewest, most = self.scene.objects
        drawn = []
        for number in range(self.batch_size):
            if number % 2:
                drawn.append(self._scene(rng, int(rng.integers(fewest, most + 1))))
            else:
                row = int(rng.choice(self.rows))
                sprite = self.drawings[row][int(rng.integers(len(self.drawings[row])))]
                drawn.append((draw_close_up(rng, sprite, self.side), [row]))
        pixels = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
        shown = torch.zeros(len(drawn), self.width)
        for number, (_, rows) in enumerate(drawn):
            shown[number, rows] = 1
        return NamedPictures(pixels.permute(0, 3, 1, 2).contiguous(), shown)

    def _scene(
        self, rng: np.random.Generator, objects: int
    ) -> tuple[UInt8[np.ndarray, "S S 3"], list[int]]:
        rows = rng.choice(self.rows, objects).tolist()
        chosen = [self.drawings[row][int(rng.integers(len(self.drawings[row])))] for row in rows]
        scene = draw_scene(rng, [_cut_out(rng, sprite) for sprite in chosen], self.scene)
        return scene.pixels, [rows[place] for place in scene.shown]


def draw_close_up(
    rng: np.random.Generator, sprite: Sprite, side: int
) -> UInt8[np.ndarray, "S S 3"]:
    """One object that fills half of the picture's side or more, on noise."""
    settings = SceneSettings(size=side, objects=(1, 1), sides=(side // 2, round(0.9 * side)))
    while True:  # the rare cut-out that a translucent border makes too large is tried smaller
        scene = draw_scene(rng, [_cut_out(rng, sprite)], settings)
        if scene.shown:
            return scene.pixels


def _cut_out(rng: np.random.Generator, sprite: Sprite) -> Image.Image:
    """Open it; half of them face the other way."""
    cutout = open_sprite(sprite.file)
    return cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cutout
