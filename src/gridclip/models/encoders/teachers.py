"""The frozen teachers of whole-image embeddings, in training only."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from gridclip.data.precomputed.stored import StoredEmbeddings
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import RANDOM, ClipModel, Frozen, pixels_of
from gridclip.ops.images import pad, squeeze
from gridclip.structures import Images


class Teacher(nn.Module, ABC):
    """Embeds whole images; frozen, and no part of a checkpoint.

    Making one is cheap: the network comes with `load`, which a detector calls only if a loss needs
    the teacher.

    Attributes:
        width: Width E of the embeddings; known after `load`.
    """

    width: int

    @abstractmethod
    def load(self) -> None:
        """Builds the network with its weights."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Names the weights and what is done to an image before: the key of stored embeddings."""

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
    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each image."""
        squares = squeeze(images, self.side)
        return F.normalize(self.tower(self.norm(squares)), dim=-1)


SCALES = (1.0, 1.5)
"""ViLD (2104.13921) cuts each proposal out as it is, and with some of its surroundings."""


def embed_crops(
    teacher: Teacher,
    image: UInt8[Tensor, "3 h w"],
    boxes: Float[Tensor, "R 4"],
    *,
    scales: tuple[float, ...] = SCALES,
    batch_size: int = 32,
) -> Float[Tensor, "R E"]:
    """Unit vector of each region: those of its crops at all scales, summed and normalised.

    Args:
        teacher: Loaded.
        image: RGB.
        boxes: xyxy, pixels of the image.
        scales: Factors on the sides of a region; what leaves the image is cut off.
        batch_size: Crops that the teacher sees at a time.
    """
    total = torch.zeros(len(boxes), teacher.width, device=image.device)
    for scale in scales:
        windows = crop_windows(boxes, scale, (image.shape[1], image.shape[2]))
        for start in range(0, len(windows), batch_size):
            part = windows[start : start + batch_size]
            total[start : start + len(part)] += teacher(_cut(image, part.tolist())).float()
    return F.normalize(total, dim=-1)


def crop_windows(
    boxes: Float[Tensor, "R 4"], scale: float, size: tuple[int, int]
) -> Int[Tensor, "R 4"]:
    """Whole pixels that a region, grown about its centre, touches; at least one.

    Args:
        boxes: xyxy, pixels of the image.
        scale: Factor on both sides.
        size: Height and width of the image.
    """
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * scale / 2
    limit = torch.tensor([size[1], size[0]], device=boxes.device)
    low = torch.minimum((centres - half).floor().long().clamp(min=0), limit - 1)
    high = torch.minimum((centres + half).ceil().long(), limit)
    return torch.cat([low, torch.maximum(high, low + 1)], dim=1)


def _cut(image: UInt8[Tensor, "3 h w"], windows: Iterable[list[int]]) -> Images:
    crops = [image[:, top:bottom, left:right] for left, top, right, bottom in windows]
    images = pad([crop.cpu() for crop in crops], 1)
    return Images(images.pixels.to(image.device), images.sizes.to(image.device))
