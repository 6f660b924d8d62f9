"""The frozen teachers of whole-image embeddings, in training only."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.clip.openclip import RANDOM, ClipModel, Frozen, pixel_scale
from gridclip.clip.stored.embeddings import StoredEmbeddings
from gridclip.errors import InputError
from gridclip.pixels import PixelNorm
from gridclip.structures import Images


class Teacher(nn.Module, ABC):
    """Embeds whole pictures; frozen, and no part of a checkpoint.

    Making one is cheap: the network comes with `load`, which a detector calls only if a loss needs
    the teacher.

    Attributes:
        width: Width E of the embeddings; known after `load`.
    """

    width: int

    @abstractmethod
    def load(self) -> None:
        """Build the network with its weights."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Names the weights and what is done to a picture before: the key of stored embeddings."""

    @abstractmethod
    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each picture."""


class StoredTeacher(Teacher):
    """Embeddings that a teacher gave before; there is no network behind it.

    What a batch carries (`batch.teacher`) takes its place; only the width is asked of it.

    Args:
        file: What `gridclip data embed` wrote.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def load(self) -> None:
        """Read the width."""
        self.width = StoredEmbeddings(self.file).width

    def fingerprint(self) -> str:
        """That of the teacher whose embeddings they are."""
        return StoredEmbeddings(self.file).fingerprint

    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Refuse: there is nothing to embed with.

        Raises:
            InputError: always.
        """
        raise InputError(
            "this batch carries no stored embeddings, and the teacher is no network",
            fix="let the data carry them (data.init_args.embeddings), or give a ClipTeacher",
            file=self.file,
            field="teacher",
        )


class ClipTeacher(Teacher):
    """A frozen CLIP image tower.

    Each picture, without its padding, is resized to the tower's own square, so that nothing is
    cropped away: an object near the border is in the embedding as well (our reading of GridCLIP).

    Args:
        clip: The teacher; it may be another model than the detector's own.
    """

    def __init__(self, clip: ClipModel) -> None:
        super().__init__()
        self.clip = clip

    def load(self) -> None:
        """Build the image tower with its weights."""
        model = self.clip.create()
        scale = pixel_scale(model)
        self.side = scale.side
        self.norm = PixelNorm(scale.mean, scale.std)
        self.tower = Frozen(model.visual)  # type: ignore[arg-type]
        with torch.no_grad():
            probe = self.tower(torch.zeros(1, 3, self.side, self.side))
        self.width = probe.shape[-1]

    def fingerprint(self) -> str:
        """The tower's weights, and the way its square is made.

        Raises:
            InputError: if the weights are random: they are others in each run.
        """
        if self.clip.weights == RANDOM:
            raise InputError(
                "embeddings of random weights are worth nothing in another run",
                fix="give weights: a tag of open_clip, or a file",
                field="weights",
            )
        return f"{self.clip.fingerprint()}-squeezed"

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each picture."""
        squares = squeeze(images, self.side)
        return F.normalize(self.tower(self.norm(squares)), dim=-1)


def squeeze(images: Images, side: int) -> Float[Tensor, "B 3 side side"]:
    """Resize each picture, without its padding, to a square, whatever its ratio; RGB 0-255."""
    squares = [
        F.interpolate(
            pixels[None, :, :height, :width].float(),
            size=(side, side),
            mode="bicubic",
            antialias=True,
        ).clamp(0, 255)
        for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True)
    ]
    return torch.cat(squares)
