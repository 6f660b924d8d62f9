"""A trained detector, rebuilt from its run folder, and the command that uses it on pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from jaxtyping import Float, UInt8
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image
from rich.console import Console

from gridclip.dashboards.pictures import Label, draw
from gridclip.data.collate import pad
from gridclip.data.pictures import read_picture
from gridclip.data.transforms import Resize, prepare
from gridclip.detectors.base import Detector
from gridclip.detectors.two_stage.regions import RegionReader
from gridclip.errors import InputError
from gridclip.inputs import Boxes, Picture, corners_of, pixels_of
from gridclip.structures import Detections, Images, Record, Vocabulary
from gridclip.system import DetectionSystem, compile_networks, load_weights


class Found(NamedTuple):
    """One object."""

    name: str
    score: float  # in [0, 1]
    box: tuple[float, float, float, float]  # xyxy, pixels of the original image


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How a detector is run; detections differ by rounding only.

    Args:
        bf16: Networks in bf16: faster where the processor knows it. Scores are made in fp32.
        channels_last: Feature maps channels last in memory, as convolutions like best.
        compile: Compile the networks when they first run, for many pictures of few sizes.
    """

    bf16: bool = False
    channels_last: bool = True
    compile: bool = False


_SPEED = Speed()

# Arguments that a trained detector is past: files of parts whose weights it keeps, and the boxes
# that its evaluation was given.
_PAST = ("checkpoint", "box_weights", "given")


class TrainedDetector:
    """Finds whatever you name.

    Args:
        detector: The network, with its weights.
        resize: The size its pictures are evaluated at.
        speed: How it is run.
    """

    def __init__(self, detector: Detector, resize: Resize, speed: Speed = _SPEED) -> None:
        self.detector, self.resize, self.speed = detector.eval(), resize, speed
        if speed.channels_last:
            detector.to(memory_format=torch.channels_last)
        if speed.compile:
            compile_networks(detector)

    def detect(
        self, image: Picture, names: Sequence[str], *, threshold: float = 0.3, limit: int = 100
    ) -> list[Found]:
        """Find objects of these names in one picture, best first.

        Args:
            image: A file, a PIL picture, or RGB pixels.
            names: What to look for: any words, whether trained on or not.
            threshold: Least score, in [0, 1].
            limit: At most so many.

        Raises:
            InputError: for a picture that cannot be read, or names that are empty or double.
        """
        found = self.detect_many([image], names)[0]
        return [each for each in found if each.score >= threshold][:limit]

    def detect_many(self, images: Sequence[Picture], names: Sequence[str]) -> list[list[Found]]:
        """Find objects of these names in pictures of any sizes at once: each one's, best first.

        They are padded to the largest, so pictures of like size make the quickest batch.

        Args:
            images: Files, PIL pictures, or RGB pixels.
            names: What to look for.

        Raises:
            InputError: as `detect`.
        """
        vocabulary, pixels = Vocabulary(names), [pixels_of(image) for image in images]
        records = [Record(0, "", height=len(each), width=each.shape[1]) for each in pixels]
        batch = self._batch(pixels)
        with self._fast():
            found = self.detector.detect(batch, vocabulary, records)
        return [_named(each, vocabulary) for each in found]

    @torch.no_grad()
    def classify(
        self, image: Picture, boxes: Boxes, names: Sequence[str]
    ) -> list[dict[str, float]]:
        """Name boxes that are given: the probability of each name in each box, likeliest first.

        Args:
            image: A file, a PIL picture, or RGB pixels.
            boxes: xyxy, pixels of the picture.
            names: What they may show; a box's probabilities add up to 1.

        Raises:
            InputError: if the detector cannot, or for a picture, boxes or names that are wrong.
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
    def region_features(self, image: Picture, boxes: Boxes) -> Float[np.ndarray, "R D"]:
        """Unit vector of each box, in the space of the text vectors.

        Args:
            image: A file, a PIL picture, or RGB pixels.
            boxes: xyxy, pixels of the picture.

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

    def _placed(self, image: Picture, boxes: Boxes) -> tuple[Images, Float[torch.Tensor, "R 4"]]:
        """The picture as the network sees it, and the boxes in its pixels there."""
        pixels = pixels_of(image)
        corners = corners_of(boxes, pixels.shape[1], len(pixels))
        batch = self._batch([pixels])
        height, width = batch.sizes[0].tolist()
        scale = np.array([width / pixels.shape[1], height / len(pixels)] * 2)
        device = batch.pixels.device
        return batch, torch.tensor(corners * scale, dtype=torch.float, device=device)

    def _batch(self, pixels: list[UInt8[np.ndarray, "_ _ 3"]]) -> Images:
        device = next(self.detector.parameters()).device
        padded = pad([prepare(each, self.resize) for each in pixels])
        return Images(*(part.to(device) for part in padded))

    def _fast(self) -> torch.autocast:
        device = next(self.detector.parameters()).device
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.speed.bf16)


def load(run_dir: str | Path, device: str = "cpu", speed: Speed = _SPEED) -> TrainedDetector:
    """Rebuild the detector of a run from its config.yaml and checkpoints/last.ckpt.

    Args:
        run_dir: Folder of a training.
        device: Where to run it.
        speed: How to run it.

    Raises:
        InputError: if the folder is no run, or its parts do not fit.
    """
    folder = Path(run_dir)
    recipe = _read_recipe(folder / "config.yaml")
    settings = _without_past(recipe["model"])
    system: DetectionSystem = _instantiate(DetectionSystem, settings, "model")
    load_weights(system, folder / "checkpoints" / "last.ckpt")
    given = (recipe.get("data") or {}).get("init_args", {}).get("val_resize")
    resize = Resize() if given is None else _instantiate(Resize, given, "resize")
    return TrainedDetector(system.detector.to(device), resize, speed)


def _without_past(model: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the files that training and evaluation took: they may be gone."""
    detector = model["detector"]
    given = detector.get("init_args", {})
    kept = {name: None if name in _PAST else value for name, value in given.items()}
    return model | {"init_from": None, "detector": detector | {"init_args": kept}}


def detect_command(  # noqa: PLR0913 - a command has as many options as it has
    images: list[Path],
    run: Path,
    names: str,
    output: Path = Path("detections"),
    threshold: float = 0.3,
    limit: int = 100,
    device: str = "cpu",
    speed: Speed = _SPEED,
) -> None:
    """Find objects in pictures: writes detections.json and a copy of each picture with boxes drawn.

    Args:
        images: Picture files.
        run: Folder of a finished training.
        names: What to look for, separated by commas: "red striped star, green ring".
        output: Folder for the results.
        threshold: Least score, in [0, 1].
        limit: At most so many boxes in a picture.
        device: Where to run it: cpu, cuda, mps.
        speed: How to run it.
    """
    console = Console()
    detector = load(run, device, speed)
    wanted = [name.strip() for name in names.split(",")]
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {}
    for file in images:
        found = detector.detect(file, wanted, threshold=threshold, limit=limit)
        results[str(file)] = [each._asdict() for each in found]
        drawn = output / f"{file.stem}-detected.png"
        _draw(Image.fromarray(read_picture(file)), found).save(drawn)
        console.print(f"{file}: {len(found)} found, drawn in {drawn}")
    (output / "detections.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    console.print(f"boxes (xyxy, pixels): {output / 'detections.json'}")


def _named(found: Detections, vocabulary: Vocabulary) -> list[Found]:
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [
        Found(vocabulary.names[label], score, (x1, y1, x2, y2))
        for (x1, y1, x2, y2), score, label in rows
    ]


def _draw(picture: Image.Image, found: list[Found], side: int = 512) -> Image.Image:
    """Draw boxes; a small picture is enlarged a whole number of times, so that words fit in."""
    zoom = max(1, side // max(picture.size))
    large = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    labels = []
    for name, score, (x1, y1, x2, y2) in found:
        box = (x1 * zoom, y1 * zoom, x2 * zoom, y2 * zoom)
        labels.append(Label(box, f"{name} {score:.2f}"))
    return draw(large, labels)


def _read_recipe(file: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        recipe["model"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(
            f"is no recipe of a run: {error!r}", file=file, fix="give the folder of a training"
        ) from error
    return dict(recipe)


def _instantiate(kind: type, settings: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    """Build an object from the part of a recipe that describes it."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, name)
    with torch.random.fork_rng():
        return parser.instantiate_classes(parser.parse_object({name: settings}))[name]
