"""A trained detector, rebuilt from its run folder."""

import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser

from gridclip.data.images.given import ImageLike, pixels_of
from gridclip.data.transforms.augment import Resize, prepare
from gridclip.engine.detect.finder import Finder, Pixels
from gridclip.engine.detect.speed import Speed
from gridclip.engine.lightning_module import (
    DetectionSystem,
    compile_networks,
    load_weights,
    read_checkpoint,
)
from gridclip.io.arguments import PARSER_MODE
from gridclip.io.errors import InputError
from gridclip.io.trust import importing_known_code, refuse_foreign_classes, refuse_functions
from gridclip.io.yaml_text import read_yaml
from gridclip.models.base import Detector
from gridclip.models.two_stage.detector import RegionReader
from gridclip.ops.images import pad
from gridclip.structures import Detections, Images, Record, Vocabulary

Boxes = Sequence[Sequence[float | int]] | Float[np.ndarray, "R 4"]
"""xyxy, pixels of the original image."""


def corners_of(boxes: Boxes, width: int, height: int) -> Float[np.ndarray, "R 4"]:
    """Returns boxes clipped to an image of this size.

    Raises:
        InputError: naming the first that is no box, or outside.
    """
    try:
        corners = np.asarray(boxes, dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"are no boxes: {error}", field="boxes", fix="give [x1, y1, x2, y2] for each"
        ) from error
    inside = np.clip(corners, 0, np.array([width, height] * 2))
    wrong = ~np.isfinite(corners).all(1) | ~(inside[:, 2:] > inside[:, :2]).all(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{corners[row].tolist()} is no box of an image of {width} x {height}",
            field=f"boxes[{row}]",
            fix="give [x1, y1, x2, y2] in pixels of the image, x1 < x2 and y1 < y2",
        )
    return inside


_SPEED = Speed()


class TrainedDetector(Finder):
    """Finds whatever you name, and names boxes that you give where the detector can.

    Args:
        detector: The network, with its weights.
        resize: The size its images are evaluated at.
        speed: How it is run.
    """

    def __init__(self, detector: Detector, resize: Resize, speed: Speed = _SPEED) -> None:
        self.detector, self.resize, self.speed = detector.eval(), resize, speed
        if speed.channels_last:
            detector.to(memory_format=torch.channels_last)
        if speed.compile:
            compile_networks(detector)

    def search(self, pixels: Sequence[Pixels], vocabulary: Vocabulary) -> list[Detections]:
        """Searches images at once, padded to the largest."""
        records = [Record(0, "", height=len(each), width=each.shape[1]) for each in pixels]
        batch = self._batch(pixels)
        with self._fast():
            return self.detector.detect(batch, vocabulary, records)

    @torch.no_grad()
    def classify(
        self, image: ImageLike, boxes: Boxes, names: Sequence[str]
    ) -> list[dict[str, float]]:
        """Names boxes that are given: the probability of each name in each box, likeliest first.

        Args:
            image: A file, a PIL image, or RGB pixels, as for `detect`.
            boxes: xyxy, pixels of the image; of a file, of the upright image.
            names: What they may show; a box's probabilities add up to 1.

        Raises:
            InputError: if the detector cannot, or for an image, boxes or names that are wrong.
        """
        reader, vocabulary = self._reader(), Vocabulary(names)
        batch, placed = self._placed(image, boxes)
        with self._fast():
            shown = reader.classify(batch, [placed], vocabulary)
        best = shown.sort(dim=1, descending=True)
        return [
            {vocabulary.names[label]: share for label, share in zip(*each, strict=True)}
            for each in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def region_features(self, image: ImageLike, boxes: Boxes) -> Float[np.ndarray, "R D"]:
        """Unit vector of each box, in the space of the text vectors.

        Args:
            image: A file, a PIL image, or RGB pixels, as for `detect`.
            boxes: xyxy, pixels of the image; of a file, of the upright image.

        Raises:
            InputError: as `classify`.
        """
        reader = self._reader()
        batch, placed = self._placed(image, boxes)
        with self._fast():
            features = reader.region_features(batch, [placed])
        found: Float[np.ndarray, "R D"] = features.cpu().numpy()
        return found

    def _reader(self) -> RegionReader:
        if not isinstance(self.detector, RegionReader):
            raise InputError(
                f"{type(self.detector).__name__} finds its own regions and reads no others",
                field="run",
                fix="give a run of RegionCLIP",
            )
        return self.detector

    def _placed(self, image: ImageLike, boxes: Boxes) -> tuple[Images, Float[torch.Tensor, "R 4"]]:
        """The image as the network sees it, and the boxes in its pixels there."""
        pixels = pixels_of(image)
        corners = corners_of(boxes, pixels.shape[1], len(pixels))
        batch = self._batch([pixels])
        height, width = batch.sizes[0].tolist()
        scale = np.array([width / pixels.shape[1], height / len(pixels)] * 2)
        device = batch.pixels.device
        return batch, torch.tensor(corners * scale, dtype=torch.float, device=device)

    def _batch(self, pixels: Sequence[Pixels]) -> Images:
        device = next(self.detector.parameters()).device
        padded = pad([prepare(each, self.resize) for each in pixels])
        return Images(*(part.to(device) for part in padded))

    def _fast(self) -> torch.autocast:
        device = next(self.detector.parameters()).device
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.speed.bf16)


def load(
    run_dir: str | Path, device: str = "cpu", speed: Speed = _SPEED, *, trust: bool = False
) -> TrainedDetector:
    """Rebuilds the detector of a run from its config.yaml and checkpoints/last.ckpt.

    Args:
        run_dir: Folder of a training, of anyone's: no code of it runs.
        device: Where to run it: cpu, cuda, cuda:1, mps, or auto, the first accelerator there is.
        speed: How to run it.
        trust: Import also classes that it names from outside `io.trust.KNOWN`, such as your own.

    Raises:
        InputError: if the folder is no run, its parts do not fit, it needs trust, or the device is
            not there.
    """
    folder, place = Path(run_dir), _device(device)
    file = folder / "config.yaml"
    recipe = _read_recipe(file)
    refuse_foreign_classes(recipe["model"], trust=trust, file=file, field="model")
    built, weights = _Builder(file, trust), folder / "checkpoints" / "last.ckpt"
    settings = _without_past(recipe["model"], file)
    checkpoint = read_checkpoint(weights)
    system: DetectionSystem = built(DetectionSystem, settings, "model")
    load_weights(system, weights, checkpoint)
    resize = Resize() if recipe["resize"] is None else built(Resize, recipe["resize"], "val_resize")
    return TrainedDetector(system.detector.to(place), resize, speed)


def _device(name: str) -> torch.device:
    """Returns a device, once it has held a number; auto is the accelerator, or else the cpu.

    Raises:
        InputError: if this machine has no such device, with those that it has.
    """
    try:
        device = _best_device() if name == "auto" else torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        there = ["cpu"]
        if torch.accelerator.is_available():
            kind = torch.accelerator.current_accelerator()
            there += [f"{kind}:{number}" for number in range(torch.accelerator.device_count())]
        raise InputError(
            f"{name} is not on this machine: {str(error).partition(chr(10))[0]}",
            field="device",
            fix=f"give auto or {' or '.join(there)}",
        ) from error
    return device


def _best_device() -> torch.device:
    there = torch.accelerator.is_available()
    return (torch.accelerator.current_accelerator() if there else None) or torch.device("cpu")


def _without_past(model: dict[str, Any], file: Path | None = None) -> dict[str, Any]:
    """A recipe without the files that training and evaluation took: they may be gone.

    Raises:
        InputError: if the class of its detector is not there.
    """
    detector = model["detector"]
    past = _detector_class(str(detector.get("class_path")), file).past_arguments
    given = _mapping(detector, "init_args")
    kept = {name: None if name in past else value for name, value in given.items()}
    return model | {"init_from": None, "detector": detector | {"init_args": kept}}


def _detector_class(path: str, file: Path | None) -> type[Detector]:
    try:
        if "." not in path:  # which would import a module of this name
            raise ValueError("it is no full path")
        found = pkgutil.resolve_name(path)
        if not (inspect.isclass(found) and issubclass(found, Detector)):
            raise ValueError("it is no class of a detector")
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is not there: {error}",
            file=file,
            field="model.detector.class_path",
            fix="install the package of that detector, in the version that trained it",
        ) from error
    return found


def _read_recipe(file: Path) -> dict[str, Any]:
    """Returns `model` of a recipe, with a detector in it, and `resize`, which may be None."""
    fix = "give the folder of a training"
    if not file.is_file():
        raise InputError("is no recipe of a run: it is not there", file=file, fix=fix)
    recipe = read_yaml(file, fix=fix)
    model, data = (_mapping(recipe, part) for part in ("model", "data"))
    if not _mapping(model, "detector"):
        raise InputError("is no recipe of a run: it has no model.detector", file=file, fix=fix)
    return {"model": model, "resize": _mapping(data, "init_args").get("val_resize")}


def _mapping(tree: object, key: str) -> dict[str, Any]:
    """Returns the mapping under a key; an empty one if there is none."""
    found = tree.get(key) if isinstance(tree, dict) else None
    return found if isinstance(found, dict) else {}


class _Builder(NamedTuple):
    """Builds objects from the parts of a recipe that describe them."""

    file: Path
    trust: bool

    def __call__(self, kind: type, settings: dict[str, Any], name: str) -> Any:  # noqa: ANN401
        """Returns an object of this kind; `name` is for messages.

        Raises:
            InputError: if the settings do not describe one, or need trust.
        """
        parser = LightningArgumentParser(exit_on_error=False, parser_mode=PARSER_MODE)
        with importing_known_code(trust=self.trust, files=[self.file]), torch.random.fork_rng():
            parser.add_class_arguments(kind, name)
            try:
                parsed = parser.parse_object({name: settings})
            except ArgumentError as error:
                fix = "give the run of a training with this version of gridclip"
                raise InputError(str(error), file=self.file, field=name, fix=fix) from error
            if not self.trust:
                refuse_functions(parsed, file=self.file)
            return parser.instantiate_classes(parsed)[name]
