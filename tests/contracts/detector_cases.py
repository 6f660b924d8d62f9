"""The detectors that keep the contracts, one line each, and the data that they learn from.

A new detector is a new line in `DETECTORS`: its row of experiments/mini, what it learns from, what
it refuses and with which advice, and what it does beside detection. The tests read nothing else.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import yaml

ROWS = Path(__file__).parents[2] / "experiments" / "mini"
SIDE = 64  # of what a network sees, in pixels
SIZE = 96  # of the image files
STEPS = 2

_SEEN = {"shortest": [SIDE], "longest": SIDE}
_TEACHER = {
    "class_path": "ClipTeacher",
    "init_args": {"clip": {"name": "gridclip-mini", "weights": "mini"}},
}


@dataclass(frozen=True, eq=False)
class Case:
    """A detector and what holds for it.

    Args:
        name: Of the detector, and of its tests.
        row: Its row in experiments/mini.
        learns: The kind of `data_of` that it trains on; None for one that is evaluated only.
        refuses: Kinds of data that it cannot learn from, each with the advice it then gives.
        reads_boxes: Whether `gridclip classify` may use it; it is refused otherwise.
        proposes: Whether `gridclip propose` may use it; it is refused otherwise.
        settings: Arguments of the detector beside those of its row.
        slow: Whether it is another setting of a detector that is tried already.
    """

    name: str
    row: str
    learns: str | None = "boxes"
    refuses: dict[str, str] = field(default_factory=dict)
    reads_boxes: bool = False
    proposes: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    slow: bool = False

    def recipe(self, root: Path, data: str) -> dict[str, Any]:
        """Its row, shortened to a few steps on a few images of this kind of data."""
        row = yaml.safe_load((ROWS / self.row).read_text().replace("data/mini", str(root)))
        row["model"]["detector"]["init_args"] |= self.settings
        return row | {"data": data_of(data, root), "trainer": _TRAINER}


# What is advised to whoever brings captions, or images without boxes, to a detector of boxes.
_BOXES = {"captions": "use DetectionData", "images": "leave data.init_args.image_level out"}
_WEIGHTS = {"captions": "use DetectionData", "images": "leave the image-level data out"}
_PAIRS = {"boxes": "use HybridData with pairs", "hybrid": "and neither detection nor grounding"}
_EVALUATED = {"boxes": "use gridclip validate"}
_LOOKS = {"teacher": _TEACHER, "sampling": {"regions": 8, "distilled": 4}}  # nothing is stored
_FEW = {"sampling": {"regions": 8}, "proposals": {"limit": 16}}

# fmt: off
DETECTORS = [
    Case("GridCLIP", "gridclip.yaml", refuses=_WEIGHTS),
    Case("DetCLIPv2", "detclip_pairs.yaml", "hybrid", {"images": _BOXES["images"]}, proposes=False),
    Case("ViLD-text", "vild_text.yaml", refuses=_BOXES, slow=True),
    Case("ViLD-ensemble", "vild_ensemble.yaml", refuses=_BOXES, settings=_LOOKS),
    Case("RegionCLIP", "regionclip.yaml", refuses=_BOXES, reads_boxes=True),
    Case("RegionCLIP-given", "regionclip_zero_shot.yaml", reads_boxes=True, slow=True,
         settings=_FEW),
    Case("RegionPretraining", "regionclip_pretrain.yaml", "captions", _PAIRS, reads_boxes=True),
    Case("CropAndClassify", "crop_and_classify.yaml", None, _EVALUATED, settings={"limit": 5}),
]
# fmt: on
TRAINED = [case for case in DETECTORS if case.learns]
UNTRAINED = [case for case in DETECTORS if not case.learns]

_TRAINER = {
    "accelerator": "cpu",
    "max_steps": STEPS,
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "val_check_interval": STEPS,
    "num_sanity_val_steps": 0,
    "gradient_clip_val": 5.0,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def data_of(kind: str, root: Path) -> dict[str, Any]:
    """The data section of a recipe: boxes, images (boxes and images without), captions, hybrid."""
    evaluated = {"root": str(root), "val_batch_size": 3, "val_resize": _SEEN, "num_workers": 0}
    if kind in ("boxes", "images"):
        boxes = evaluated | {"rare_split": "base_only", "batch_size": 4, "resize": _SEEN}
        if kind == "images":
            web = {"source": str(root / "hybrid" / "images"), "labels": str(root / "web.labels")}
            source = {"class_path": "PseudoLabelled", "init_args": web | {"resize": _SEEN}}
            boxes |= {"image_level": source, "image_level_ratio": 1.0}
        return {"class_path": "DetectionData", "init_args": boxes}
    few: dict[str, Any] = {"batch_size": 4, "resize": _SEEN}
    streams = {"pairs": few | {"source": str(root / "hybrid" / "pairs.jsonl")}}
    if kind == "hybrid":
        grounding = {"file": str(root / "hybrid" / "grounding.json"), "concepts": 20}
        grounding["images"] = str(root / "hybrid" / "images")
        streams["grounding"] = few | grounding
        streams["detection"] = few | {"root": str(root), "concepts": 40}
    return {"class_path": "HybridData", "init_args": evaluated | streams}


class KeepFirst(lightning.Callback):
    """Copies the checkpoint of the first step before that of the second replaces it.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """Copy it where the second step begins."""
        if trainer.global_step == 1:
            shutil.copy(self.folder / "checkpoints" / "last.ckpt", self.folder / "first.ckpt")
