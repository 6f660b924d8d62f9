"""A trained detector, rebuilt from its run folder, and the command that uses it on pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from jaxtyping import UInt8
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image
from rich.console import Console

from gridclip.dashboards.pictures import Label, draw
from gridclip.data.collate import pad
from gridclip.data.module import DetectionData
from gridclip.data.pictures import read_picture
from gridclip.data.transforms import Resize, prepare
from gridclip.detectors.base import Detector
from gridclip.errors import InputError
from gridclip.structures import Record, Vocabulary
from gridclip.system import DetectionSystem, load_weights

Picture = str | Path | Image.Image | UInt8[np.ndarray, "height width 3"]


class Found(NamedTuple):
    """One object."""

    name: str
    score: float  # in [0, 1]
    box: tuple[float, float, float, float]  # xyxy, pixels of the original image


class TrainedDetector:
    """Finds whatever you name.

    Args:
        detector: The network, with its weights.
        resize: The size its pictures are evaluated at.
    """

    def __init__(self, detector: Detector, resize: Resize) -> None:
        self.detector, self.resize = detector.eval(), resize

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
        vocabulary, pixels = Vocabulary(names), _pixels(image)
        images = pad([prepare(pixels, self.resize)])
        record = Record(image_id=0, path="", height=pixels.shape[0], width=pixels.shape[1])
        device = next(self.detector.parameters()).device
        images = type(images)(images.pixels.to(device), images.sizes.to(device))
        found = self.detector.detect(images, vocabulary, [record])[0]
        return [
            Found(vocabulary.names[label], score, (x1, y1, x2, y2))
            for (x1, y1, x2, y2), score, label in zip(
                found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            )
            if score >= threshold
        ][:limit]


def load(run_dir: str | Path, device: str = "cpu") -> TrainedDetector:
    """Rebuild the detector of a run from its config.yaml and checkpoints/last.ckpt.

    Raises:
        InputError: if the folder is no run, or its parts do not fit.
    """
    folder = Path(run_dir)
    recipe = _read_recipe(folder / "config.yaml")
    system: DetectionSystem = _instantiate(DetectionSystem, recipe["model"], "model")
    load_weights(system, folder / "checkpoints" / "last.ckpt")
    data = recipe.get("data") or {}
    resize = Resize()
    if str(data.get("class_path", "")).endswith(DetectionData.__name__):
        resize = _instantiate(Resize, data["init_args"]["val_resize"], "resize")
    return TrainedDetector(system.detector.to(device), resize)


def detect_command(
    images: list[Path],
    run: Path,
    names: str,
    output: Path = Path("detections"),
    threshold: float = 0.3,
    limit: int = 100,
) -> None:
    """Find objects in pictures: writes detections.json and a copy of each picture with boxes drawn.

    Args:
        images: Picture files.
        run: Folder of a finished training.
        names: What to look for, separated by commas: "red striped star, green ring".
        output: Folder for the results.
        threshold: Least score, in [0, 1].
        limit: At most so many boxes in a picture.
    """
    console = Console()
    detector = load(run)
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


def _draw(picture: Image.Image, found: list[Found], side: int = 512) -> Image.Image:
    """Draw boxes; a small picture is enlarged a whole number of times, so that words fit in."""
    zoom = max(1, side // max(picture.size))
    large = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    labels = []
    for name, score, (x1, y1, x2, y2) in found:
        box = (x1 * zoom, y1 * zoom, x2 * zoom, y2 * zoom)
        labels.append(Label(box, f"{name} {score:.2f}"))
    return draw(large, labels)


def _pixels(image: Picture) -> UInt8[np.ndarray, "height width 3"]:
    if isinstance(image, str | Path):
        return read_picture(Path(image))
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


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
