"""A teacher of our own: an ImageNet network fitted to CLIP's text vectors."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

from gridclip.clip.openclip import Frozen
from gridclip.clip.teacher import Teacher, squeeze
from gridclip.errors import InputError
from gridclip.networks.backbone import Backbone, TimmBackbone
from gridclip.structures import Images

_FIX = "give a file that `gridclip clip fit` wrote"


class ImageEncoder(nn.Module):
    """A backbone, the mean over its coarsest map, and a linear projection.

    Args:
        backbone: Its C5 is what is pooled.
        width: Width E of the embeddings.
    """

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.project = nn.Linear(backbone.channels[-1], width)

    def forward(self, pixels: Num[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Unit vector of each picture, RGB 0-255 without padding."""
        c5 = self.backbone.maps(self.backbone.norm(pixels))[-1]
        return F.normalize(self.project(c5.mean((2, 3))), dim=-1)


class FittedTeacher(Teacher):
    """The image encoder that `gridclip clip fit` wrote.

    It stands where CLIP's own image weights are out of reach: it speaks the language of CLIP's text
    vectors, but knows only what it was fitted on. Pictures are resized to its square whole.

    Args:
        file: The .safetensors file.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def load(self) -> None:
        """Build the encoder with its weights.

        Raises:
            InputError: if the file is absent or holds something else.
        """
        encoder, self.side = load_encoder(self.file)
        self.width = encoder.project.out_features
        self.encoder = Frozen(encoder)

    def fingerprint(self) -> str:
        """The content of the file, and the way its square is made."""
        return f"{hashlib.sha256(_read(self.file)).hexdigest()}-squeezed"

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vector of each picture."""
        embeddings: Tensor = self.encoder(squeeze(images, self.side))
        return embeddings


def save_encoder(encoder: ImageEncoder, file: Path, *, backbone: str, side: int) -> None:
    """Write the weights, half precision, with what is needed to build the network again.

    Args:
        encoder: What to write.
        file: A .safetensors file; it is replaced only by a whole one.
        backbone: timm's name of the backbone.
        side: Side of the square that pictures are resized to, in pixels.
    """
    from safetensors.torch import save

    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in encoder.state_dict().items()
    }
    part = file.with_suffix(".part")
    part.write_bytes(save(state, metadata={"backbone": backbone, "side": str(side)}))
    part.replace(file)


def load_encoder(file: Path) -> tuple[ImageEncoder, int]:
    """Read an encoder, in evaluation mode, and the side of its square in pixels.

    Raises:
        InputError: if the file is absent or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    _read(file)
    try:
        with safe_open(file, framework="pt") as weights:
            about: dict[str, Any] = weights.metadata() or {}
            state = {name: weights.get_tensor(name).float() for name in weights.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"is no safetensors file ({error})", fix=_FIX, file=file) from error
    projection = state.get("project.weight")
    if projection is None or not {"backbone", "side"} <= about.keys():
        raise InputError("holds no fitted image encoder", fix=_FIX, file=file)
    encoder = ImageEncoder(TimmBackbone(about["backbone"]), len(projection))
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        problem = f"does not fit {about['backbone']} as this timm builds it"
        raise InputError(problem, fix="fit the teacher again", file=file) from error
    return encoder.eval(), int(about["side"])


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})",
            fix="fit it: gridclip clip fit, or name the file of a fitted teacher",
            file=file,
            field="teacher.file",
        ) from error
