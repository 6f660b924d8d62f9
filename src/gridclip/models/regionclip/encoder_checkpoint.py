"""A region encoder that was pre-trained on captions, as the start of a detector's own tower."""

from pathlib import Path

from torch import Tensor, nn

from gridclip.io.errors import InputError
from gridclip.models.base import Detector

ENCODER = "detector.regions."
"""What the names of all weights begin with in a checkpoint of RegionPretraining."""

_TO_VECTORS = ("pool.", "projection.")
"""From a map to vectors; a detector that makes its own has no such part."""


def holds_encoder(state: dict[str, Tensor]) -> bool:
    """Whether a checkpoint is of a region encoder and nothing else."""
    return bool(state) and all(name.startswith(ENCODER) for name in state)


def load_encoder(detector: Detector, state: dict[str, Tensor], file: str | Path) -> None:
    """Load a pre-trained region encoder into a detector's regions or backbone.

    Every tensor of the detector's part must be there, in its shape. The encoder's pool or its
    projection may be left over; nothing else may.

    Args:
        detector: With `regions` (RegionCLIP) or a `backbone` of the same network (GridCLIP, ViLD).
        state: Weights of a checkpoint that `holds_encoder`.
        file: Where they were read.

    Raises:
        InputError: if the detector has no such part, or another network, with what differs.
    """
    part = _start_of(detector)
    if part is None:
        raise InputError(
            f"holds a region encoder, of which {type(detector).__name__} has no use",
            file=file,
            field="init_from",
            fix="start RegionCLIP, GridCLIP or ViLD from it",
        )
    given = {name.removeprefix(ENCODER): tensor for name, tensor in state.items()}
    own = part.state_dict()
    differences = [
        [f"{name} is missing" for name in own if name not in given],
        [f"{name} is unknown" for name in given if not _has_place(name, own)],
        [
            f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    ]
    if any(differences):
        listed = "; ".join(said for kind in differences for said in kind[:8])
        raise InputError(
            "holds another network than the detector's: "
            f"{sum(map(len, differences))} tensors differ: {listed}",
            file=file,
            field="init_from",
            fix="give the backbone the CLIP, or the timm name, that was pre-trained",
        )
    part.load_state_dict({name: given[name] for name in own})


def _has_place(name: str, own: dict[str, Tensor]) -> bool:
    return name in own or name.startswith(_TO_VECTORS)


def _start_of(detector: Detector) -> nn.Module | None:
    """The part of a detector that looks at images."""
    for name in ("regions", "backbone"):
        part = getattr(detector, name, None)
        if isinstance(part, nn.Module):
            return part
    return None
