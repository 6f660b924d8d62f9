"""Which CLIP: one open_clip model and its weights, named by a configuration."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gridclip.io.errors import InputError
from gridclip.io.state_dicts import read_torch
from gridclip.ops.images import PixelNorm

MINI_FOLDER = Path(__file__).parent / "mini"
"""The bundled mini CLIP: an open_clip configuration, its weights and the record of their making."""

MINI_MODEL = "gridclip-mini"
MINI_WEIGHTS = MINI_FOLDER / "gridclip-mini.safetensors"
MINI_RECORD = MINI_FOLDER / "record.json"
"""How the weights were made, and their zero-shot accuracy."""

BUNDLED = "mini"
"""The value of `ClipModel.weights` that stands for the weights shipped with this package."""

RANDOM = "random"
"""The value of `ClipModel.weights` that stands for no weights at all."""


@dataclass(frozen=True, kw_only=True)
class ClipModel:
    """An open_clip model and its weights.

    Args:
        name: Name of an open_clip model, such as RN50, or gridclip-mini.
        weights: An open_clip tag such as openai (downloaded once by open_clip), a file of weights,
            "mini" for the weights shipped with gridclip-mini, or "random".
    """

    name: str = MINI_MODEL
    weights: str = BUNDLED

    def create(self) -> nn.Module:
        """Builds the model in evaluation mode, both towers, with its weights.

        Raises:
            InputError: if open_clip does not know the name or the weights, or cannot load them.
        """
        import open_clip

        self._check_name()
        source = self._source()
        if source is not None and Path(source).is_file():
            _require_readable(Path(source))
        try:
            model: nn.Module = open_clip.create_model(self.name, pretrained=source)
        except Exception as error:  # a file of other tensors fails wherever open_clip misses one
            raise InputError(
                f"cannot load weights {self.weights!r} into {self.name}: "
                f"{type(error).__name__}: {error}",
                field="weights",
                fix="give a file made for this model, a tag from open_clip.list_pretrained(), or "
                "random (a tag is downloaded, so it needs a network the first time)",
            ) from error
        return model.eval()

    def tokenizer(self) -> Callable[[list[str]], Int[Tensor, "K L"]]:
        """The tokenizer that belongs to the model."""
        import open_clip

        self._check_name()
        tokenize: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(self.name)
        return tokenize

    def fingerprint(self) -> str:
        """A key that changes with the model or its weights, for caches on disk."""
        source = self._source()
        if source and Path(source).is_file():
            source = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        return f"{self.name}-{source}"

    def _source(self) -> str | None:
        """What open_clip calls `pretrained`."""
        sources = {BUNDLED: str(MINI_WEIGHTS), RANDOM: None}
        return sources.get(self.weights, self.weights)

    def _check_name(self) -> None:
        import open_clip

        open_clip.add_model_config(MINI_FOLDER)
        known = open_clip.list_models()
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, n=3)
            raise InputError(
                f"open_clip has no model {self.name!r}",
                field="name",
                fix=f"did you mean {', '.join(near)}?" if near else "see open_clip.list_models()",
            )
        if self.weights == BUNDLED and self.name != MINI_MODEL:
            raise InputError(
                f"the bundled weights belong to {MINI_MODEL}, not to {self.name}",
                field="weights",
                fix="give a tag, a file, or random",
            )


def _require_readable(file: Path) -> None:
    """Refuses a file of weights that open_clip could not read, or that would take all memory."""
    if file.suffix not in (".safetensors", ".npz", ".npy"):  # they hold nothing but numbers
        read_torch(file, field="weights", fix="give a file of tensors, such as a .safetensors")


def pixels_of(model: nn.Module) -> tuple[PixelNorm, int]:
    """Returns how an open_clip model wants its pixels normalised, and the side of its square."""
    import open_clip

    settings: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
    size = settings["size"]
    norm = PixelNorm(tuple(settings["mean"]), tuple(settings["std"]))
    return norm, size if isinstance(size, int) else size[0]


class Frozen(nn.Module):
    """Holds a network that is never trained and never saved.

    The network follows `.to(device)`, but is no part of parameters(), state_dict() or train(): it
    stays out of the optimizer, out of checkpoints and in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that nn.Module does not register it.
        self._held = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:  # noqa: ANN401 - whatever the network takes and gives
        """Runs the network without gradients."""
        return self.network(*inputs)
