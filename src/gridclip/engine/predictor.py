"""A trained detector, rebuilt from its run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from gridclip.data.images.given import ImageLike, pixels_of
from gridclip.data.transforms.augment import Resize, prepare
from gridclip.engine.detect.examples import Example, by_image
from gridclip.engine.detect.finder import Finder, Pixels
from gridclip.engine.detect.speed import Speed
from gridclip.engine.hub.shared_run import WEIGHTS, beside, read_shared_weights, with_files
from gridclip.engine.hub.transfer import fetched, is_on_hub
from gridclip.engine.lightning_module import (
    DetectionSystem,
    compile_networks,
    load_weights,
    read_checkpoint,
)
from gridclip.engine.recipe import Builder, read_recipe, without_past
from gridclip.io.errors import InputError, require_fraction
from gridclip.io.trust import refuse_foreign_classes
from gridclip.models.base import Detector
from gridclip.models.shown_names import show_names
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
        found: Float[np.ndarray, "R D"] = self._region_features(image, boxes).cpu().numpy()
        return found

    def add_examples(self, examples: Mapping[str, Sequence[Example]], weight: float = 0.5) -> None:
        """Lets names stand for what boxes show, from now on, whether they are new or known.

        It learns nothing: other names keep their vectors. Call it once for all examples of a name.

        Args:
            examples: Boxes of each name, one or more.
            weight: How much they count beside the name's text, in [0, 1]; where a run has no text
                of a name, they count alone.

        Raises:
            InputError: if the detector cannot, for an image that cannot be read, and for a box that
                lies outside its image.
        """
        require_fraction(weight=weight)
        seen: dict[str, list[Float[torch.Tensor, "D"]]] = {name: [] for name in examples}
        for image, shown in by_image(examples):
            try:
                features = self._region_features(image, [box for _, box in shown])
            except InputError as error:
                raise InputError(f"an example of {shown[0][0]!r} is wrong: {error}") from error
            for (name, _), vector in zip(shown, features, strict=True):
                seen[name].append(vector.float())
        show_names(self.detector, {name: torch.stack(each) for name, each in seen.items()}, weight)

    @torch.no_grad()
    def _region_features(self, image: ImageLike, boxes: Boxes) -> Float[torch.Tensor, "R D"]:
        batch, placed = self._placed(image, boxes)
        with self._fast():
            return self.detector.region_features(batch, [placed])

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
    run: str | Path, device: str = "cpu", speed: Speed = _SPEED, *, trust: bool = False
) -> Finder:
    """Opens a detector: a run, or a file that `gridclip export` wrote.

    Args:
        run: Folder of a training; or hf://user/name, or hf://user/name@revision, of a shared one;
            or a file, .onnx, or .xml for OpenVINO.
        device: Where to run it: cpu, cuda, cuda:1, mps, or auto, the first accelerator there is.
        speed: How to run it; an exported file has its own ways.
        trust: Import also classes that it names from outside `io.trust.KNOWN`, such as your own.

    Raises:
        InputError: as `load_run`, and if a package that the file needs is not installed.
    """
    exported = Path(run).suffix.lower() in (".onnx", ".xml") and not Path(run).is_dir()
    if exported and not is_on_hub(str(run)):
        from gridclip.engine.export.exported import ExportedDetector

        return ExportedDetector(Path(run), device, trust=trust)
    return load_run(run, device, speed, trust=trust)


def load_run(
    run: str | Path, device: str = "cpu", speed: Speed = _SPEED, *, trust: bool = False
) -> TrainedDetector:
    """Rebuilds the detector of a run from its config.yaml and checkpoints/last.ckpt.

    Args:
        run: Folder of a training, of anyone's, or of a shared run: no code of it runs; or
            hf://user/name, or hf://user/name@revision, of a shared one.
        device: Where to run it: cpu, cuda, cuda:1, mps, or auto, the first accelerator there is.
        speed: How to run it.
        trust: Import also classes that it names from outside `io.trust.KNOWN`, such as your own.

    Raises:
        InputError: if the folder is no run, its parts do not fit, it needs trust, or the device is
            not there.
    """
    place = _device(device)
    folder = fetched(str(run)) if is_on_hub(str(run)) else Path(run)
    file = folder / "config.yaml"
    recipe = read_recipe(file)
    refuse_foreign_classes(recipe["model"], trust=trust, file=file, field="model")
    built, weights = Builder(file, trust), folder / "checkpoints" / "last.ckpt"
    settings = with_files(without_past(recipe["model"], file), beside(file))
    if (folder / WEIGHTS).is_file() and not weights.exists():
        weights = folder / WEIGHTS
        checkpoint = read_shared_weights(weights)
    else:
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
