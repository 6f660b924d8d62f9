"""An exported file that detects again, with the calls of a trained detector."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped

from gridclip.data.transforms.example import resample
from gridclip.engine.detect.finder import Finder, Pixels
from gridclip.engine.export.facts import KEY, read_facts
from gridclip.engine.recipe import Builder
from gridclip.io.errors import InputError, needing
from gridclip.io.trust import refuse_foreign_classes
from gridclip.models.encoders.text import TextBank
from gridclip.ops.nms import hard_nms, soft_nms
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import Detections, Vocabulary

Inputs = dict[str, Shaped[np.ndarray, "..."]]
Network = Callable[[Inputs], Sequence[Shaped[np.ndarray, "..."]]]
"""From image and text to boxes, scores and labels."""


class ExportedDetector(Finder):
    """Finds names by a file of `gridclip export`, one image after the other.

    Args:
        file: The file: .onnx for onnxruntime, .xml (beside its .bin) for OpenVINO.
        device: Where to run it: cpu, cuda, auto.
        trust: Import also classes that its text bank names from elsewhere.

    Raises:
        InputError: if the file is none of these, its runtime is not installed, or the device is not
            there.
    """

    def __init__(self, file: Path, device: str = "cpu", *, trust: bool = False) -> None:
        if not file.is_file():
            raise InputError("is not there", file=file, fix="give a file of gridclip export")
        opened = _open_onnx if file.suffix.lower() == ".onnx" else _open_openvino
        self._network, metadata = opened(file, device)
        self.file, self.facts, self._trust = file, read_facts(metadata, file), trust
        self._kept: dict[str, Float32[np.ndarray, "D"]] = {}
        if self.facts.vectors is not None:
            try:
                rows = self.facts.vectors.matrix()
            except ValueError as error:
                fix = "export the run again"
                raise InputError(f"its vectors are damaged: {error}", file=file, fix=fix) from error
            self._kept = dict(zip(self.facts.vectors.names, rows, strict=True))

    def search(self, pixels: Sequence[Pixels], vocabulary: Vocabulary) -> list[Detections]:
        """Searches one image after the other.

        Raises:
            InputError: if the file does not know one of the names.
        """
        names = self.facts.names
        if names is None:
            text: Inputs = {"text": self._vectors(vocabulary)}
            rows = list(range(len(vocabulary)))
        else:
            text, rows = {}, self._rows(names, vocabulary)
        return [self._searched(each, text, rows) for each in pixels]

    def _searched(self, image: Pixels, text: Inputs, rows: list[int]) -> Detections:
        """Finds names in one image; a label is the place of a row of the graph's names."""
        size = self.facts.resize.size(*image.shape[:2])
        resized = np.ascontiguousarray(resample(image, size))
        made = self._network({"image": resized, **text})
        boxes, scores, labels = (torch.from_numpy(np.array(part)) for part in made)
        place = {row: number for number, row in enumerate(rows)}
        known = torch.tensor([int(label) in place for label in labels], dtype=torch.bool)
        boxes, scores, labels = boxes[known], scores[known], labels[known]
        labels = torch.tensor([place[int(label)] for label in labels], dtype=torch.long)
        found = Detections(boxes, scores, labels)
        if self.facts.nms == "outside":
            found = suppressed(found, self.facts.decoding)
        height, width = size
        scale = torch.tensor([image.shape[1] / width, image.shape[0] / height] * 2)
        return found._replace(boxes=found.boxes * scale)

    def _rows(self, names: tuple[str, ...], vocabulary: Vocabulary) -> list[int]:
        """Returns the rows of names that are asked for, among those that are folded in."""
        row_of = {name: row for row, name in enumerate(names)}
        missing = [name for name in vocabulary.names if name not in row_of]
        if missing:
            raise InputError(
                f"{self.file} finds {len(names)} names, and not {', '.join(missing[:5])}",
                field="names",
                fix=f"ask for some of: {', '.join(names[:5])} …; or export with --names-as-input",
            )
        return [row_of[name] for name in vocabulary.names]

    def _vectors(self, vocabulary: Vocabulary) -> Float32[np.ndarray, "K D"]:
        """Returns the vectors of names: those that the file keeps, others by its text bank."""
        others = [name for name in vocabulary.names if name not in self._kept]
        if others:
            made = self._bank(Vocabulary(others)).cpu().numpy().astype(np.float32)
            self._kept |= dict(zip(others, made, strict=True))
        return np.stack([self._kept[name] for name in vocabulary.names])

    @cached_property
    def _bank(self) -> TextBank:
        """The text bank that the detector learned from.

        Raises:
            InputError: if there is none, it cannot be built here, or it is another.
        """
        recipe = self.facts.text
        if recipe is None:
            raise InputError(
                f"{self.file} knows only the {len(self._kept)} names that it was trained on: "
                "its text tower learned with it, and is not in the file",
                field="names",
                fix="export the run with --names",
            )
        refuse_foreign_classes(recipe, trust=self._trust, file=self.file, field="text")
        bank: TextBank = Builder(self.file, self._trust).one_of(TextBank, recipe, "text")
        if bank.fingerprint() != self.facts.fingerprint:
            raise InputError(
                "the text tower or the vectors at hand are others than those of the training",
                file=self.file,
                field="text",
                fix="restore them, or ask for names that were trained on",
            )
        return bank.eval()


def suppressed(found: Detections, settings: DecodeSettings) -> Detections:
    """Suppresses candidates of one image as a detector does, in any frame.

    Args:
        found: Candidates, best first.
        settings: Of the detector.
    """
    if settings.suppression == "soft":
        sigma, least, limit = settings.sigma, settings.least, settings.limit
        order, scores = soft_nms(*found[:3], sigma=sigma, least=least, limit=limit)
        return Detections(found.boxes[order], scores, found.labels[order])
    order = hard_nms(*found[:3], settings.nms_iou)[: settings.limit]
    return found.take(order)


def _open_onnx(file: Path, device: str) -> tuple[Network, dict[str, str]]:
    with needing("export"):
        import onnxruntime
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    there = onnxruntime.get_available_providers()
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda", "auto") or (kind == "cuda" and cuda not in there):
        fix = "give cpu, or install onnxruntime-gpu for cuda"
        raise InputError(f"{device} is not known to onnxruntime here", field="device", fix=fix)
    providers = [cuda, cpu] if kind != "cpu" and cuda in there else [cpu]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime has a class of its own for each kind of fault
        fix = "give a file of gridclip export"
        raise InputError(f"cannot be read: {error}", file=file, fix=fix) from error

    def run(inputs: Inputs) -> Sequence[Shaped[np.ndarray, "..."]]:
        made: Sequence[Shaped[np.ndarray, "..."]] = session.run(None, inputs)
        return made

    return run, dict(session.get_modelmeta().custom_metadata_map)


def _open_openvino(file: Path, device: str) -> tuple[Network, dict[str, str]]:
    with needing("openvino"):
        import openvino
    if device not in ("cpu", "auto"):
        fix = "give cpu, or auto"
        raise InputError(f"{device} is not asked of OpenVINO", field="device", fix=fix)
    core = openvino.Core()
    try:
        model = core.read_model(file)
        # By itself it would take bf16 where the processor knows it.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if device == "cpu":
            settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        compiled = core.compile_model(model, device.upper(), settings)
    except RuntimeError as error:
        fix = "give a file of gridclip export, with its .bin beside it"
        raise InputError(f"cannot be read: {error}", file=file, fix=fix) from error
    metadata = {KEY: str(model.get_rt_info(KEY).value)} if model.has_rt_info(KEY) else {}

    def run(inputs: Inputs) -> Sequence[Shaped[np.ndarray, "..."]]:
        made = compiled(inputs)
        return [made[output] for output in compiled.outputs]

    return run, metadata
