"""The released weights of RegionCLIP (2112.09106), as a CLIP that any part here takes."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gridclip.io.errors import InputError
from gridclip.io.files import require_writable, written_whole
from gridclip.io.state_dicts import read_state
from gridclip.io.tables import make_console, say
from gridclip.models.encoders.open_clip import RANDOM, ClipModel

State = dict[str, Tensor]

IMAGE, TEXT, BOX = "backbone.", "lang_encoder.", "roi_heads.box_predictor.bbox_pred."

# What has no counterpart here: copies of CLIP that only pre-training asked, text vectors, which are
# made anew from any names, masks, and the proposal network, in place of which any detector of ours
# may propose.
LEFT_ASIDE = (
    "teacher_backbone.",
    "teacher_roi_heads.",
    "offline_backbone.",
    "offline_proposal_generator.",
    "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.cls_bg_score.",
    "roi_heads.box_predictor.test_cls_score.",
    "roi_heads.mask_head.",
    "concept_emb",
    "teacher_concept_emb",
)

_COUNTER = "num_batches_tracked"  # batch norms have it, the released frozen ones have not
_CLIP = ClipModel(name="RN50-quickgelu", weights="openai")


def convert_regionclip(file: Path, *, output: Path, clip: ClipModel = _CLIP) -> None:
    """Write RegionCLIP's released weights as those of an open_clip model: clip.weights of a row.

    Every tensor must be known by name, and none of the image and text towers may be absent. A file
    of a trained detector has a box head too, which is written beside the output, its name ending in
    -boxes (box_weights of a RegionCLIP row).

    Args:
        file: The .pth file.
        output: File to write, such as regionclip_rn50.safetensors.
        clip: The model that RegionCLIP started from: RN50-quickgelu, or RN50x4-quickgelu. Its
            weights are asked for only where the file has no text tower: RegionCLIP never trains it.
    """
    if output.suffix != ".safetensors":
        raise InputError("has another ending", file=output, fix="call it something.safetensors")
    require_writable(output)
    groups = _groups(_read(file), file)
    blank = ClipModel(name=clip.name, weights=RANDOM).create()
    text = groups[TEXT] or _text_tower(clip, file)
    given = {f"visual.{name}": tensor for name, tensor in groups[IMAGE].items()} | text
    state = _whole(given, blank, file)
    with written_whole(output) as part:
        save_file(state, part)
    written = [f"{len(state)} tensors of {clip.name}: {output}"]
    if groups[BOX]:
        head = output.with_name(f"{output.stem}-boxes.safetensors")
        box = _box_head(groups[BOX], state["visual.attnpool.c_proj.weight"].shape[0], file)
        with written_whole(head) as part:
            save_file(box, part)
        written.append(f"box head: {head}")
    console = make_console()
    for line in written:
        say(console, line)


def load_box_head(head: nn.Linear, file: Path) -> None:
    """Loads the box head that `convert_regionclip` wrote.

    Raises:
        InputError: if the file is absent or of another head.
    """
    try:
        head.load_state_dict(load_file(file))
    except Exception as error:  # safetensors has errors of its own
        raise InputError(
            f"is no box head of this width: {error}",
            file=file,
            field="box_weights",
            fix="make it with gridclip clip convert-regionclip",
        ) from error


def _read(file: Path) -> State:
    state = read_state(file, fix="give a released .pth file")
    return {name: tensor.float() for name, tensor in state.items()}


def _groups(state: State, file: Path) -> dict[str, State]:
    """The parts that are taken over, by their prefix.

    Raises:
        InputError: listing the names that are of no known part.
    """
    groups: dict[str, State] = {IMAGE: {}, TEXT: {}, BOX: {}}
    unknown = []
    for name, tensor in state.items():
        part = next((prefix for prefix in groups if name.startswith(prefix)), None)
        if part is not None:
            groups[part][name.removeprefix(part)] = tensor
        elif not name.startswith(LEFT_ASIDE):
            unknown.append(name)
    if unknown:
        raise _mismatch(unknown, "unknown", file)
    return groups


def _text_tower(clip: ClipModel, file: Path) -> State:
    """The text tower of the model that RegionCLIP started from, which it leaves as it is."""
    if clip.weights == RANDOM:
        raise InputError(
            "has no text tower", file=file, field="clip.weights", fix="name CLIP's own: openai"
        )
    state = clip.create().state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}


def _whole(given: State, blank: nn.Module, file: Path) -> State:
    """The state of the model, every tensor of its shape.

    Raises:
        InputError: listing what is missing, unknown, or of another shape.
    """
    own = blank.state_dict()
    # Trained at a fixed temperature of 0.01; the released text tower has none.
    given = {"logit_scale": torch.tensor(math.log(100.0)), **given}
    given |= {name: tensor for name, tensor in own.items() if name.endswith(_COUNTER)}
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    found = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    for problem, names in found.items():
        if names:
            raise _mismatch(names, problem, file)
    return {name: given[name].contiguous() for name in own}


def _box_head(box: State, width: int, file: Path) -> State:
    shapes = {name: tuple(tensor.shape) for name, tensor in box.items()}
    if shapes != {"weight": (4, width), "bias": (4,)}:
        raise _mismatch([f"{BOX}{name} {shape}" for name, shape in shapes.items()], "wrong", file)
    return {name: tensor.contiguous() for name, tensor in box.items()}


def _mismatch(names: list[str], problem: str, file: Path) -> InputError:
    listed = "; ".join(names[:20]) + (" …" if len(names) > 20 else "")
    return InputError(
        f"{len(names)} tensors are {problem}: {listed}",
        file=file,
        fix="give a released file of RegionCLIP, and the CLIP of its size: --clip.name",
    )
