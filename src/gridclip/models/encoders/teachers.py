"""The frozen teachers of images and regions, in training only."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.data.precomputed.stored import StoredEmbeddings
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import RANDOM, ClipModel, Frozen, pixels_of
from gridclip.models.encoders.region_encoders import ClipRegions, RegionEncoder
from gridclip.models.encoders.text import ClipText, TextBank
from gridclip.ops.images import squeeze
from gridclip.structures import Images


class Teacher(nn.Module, ABC):
    """Embeds whole images, and regions (`region_views.py`); frozen, and no part of a checkpoint.

    Making one is cheap: the network comes with `load`, which a detector calls only if a loss needs
    the teacher.

    Attributes:
        width: Width E of the embeddings; known after `load`.
        side: Side in pixels of the square that the network was trained on; known after `load`.
    """

    width: int
    side: int

    @abstractmethod
    def load(self) -> None:
        """Builds the network with its weights."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Names the weights and what is done to an image before: the key of stored embeddings."""

    def see(self, squares: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B E"]:
        """Unit vectors of squares of the network's own size, RGB 0-255.

        Raises:
            InputError: if it takes none.
        """
        raise self._unable("sees no regions")

    def region_encoder(self) -> RegionEncoder:
        """The network cut in two, so that a box is read out of the map of its image.

        Raises:
            InputError: if the network makes no map.
        """
        raise self._unable("makes no map of an image")

    def own_text(self) -> TextBank:
        """Vectors of names in the teacher's space.

        Raises:
            InputError: if it comes without any.
        """
        raise self._unable("knows no names")

    def _unable(self, problem: str) -> InputError:
        fix = "give the ClipTeacher of a CLIP ResNet, or a ClassifierTeacher"
        return InputError(f"{type(self).__name__} {problem}", fix=fix, field="teacher")

    @abstractmethod
    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each image."""


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
        """Reads the width."""
        self.width = StoredEmbeddings(self.file).width

    def fingerprint(self) -> str:
        """That of the teacher whose embeddings they are."""
        return StoredEmbeddings(self.file).fingerprint

    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Refuses: there is nothing to embed with.

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

    Each image, without its padding, is resized to the tower's own square, so that nothing is
    cropped away: an object near the border is in the embedding as well (our reading of GridCLIP).

    Args:
        clip: The teacher; it may be another model than the detector's own.
    """

    def __init__(self, clip: ClipModel) -> None:
        super().__init__()
        self.clip = clip
        self.regions: Frozen | None = None

    def load(self) -> None:
        """Builds the image tower with its weights."""
        model = self.clip.create()
        self.norm, self.side = pixels_of(model)
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
    def see(self, squares: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B E"]:
        """Unit vectors of squares of the tower's own size, RGB 0-255."""
        return F.normalize(self.tower(self.norm(squares)), dim=-1)

    def region_encoder(self) -> RegionEncoder:
        """The tower of a CLIP ResNet, cut in two at the first call.

        Raises:
            InputError: if the tower is no CLIP ResNet.
        """
        if not hasattr(self.tower.network, "attnpool"):
            raise self._unable(f"of {self.clip.name} makes no map of an image")
        if self.regions is None:
            self.regions = Frozen(ClipRegions(self.clip).to(self.norm.mean.device))
        network: RegionEncoder = self.regions.network  # type: ignore[assignment]
        return network

    def own_text(self) -> TextBank:
        """The CLIP's text tower."""
        return ClipText(self.clip)

    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each image."""
        return self.see(squeeze(images, self.side))
