"""How long do the nine figures of LVIS AP take, here and with lvis 0.5.3?

One synthetic data set with as many names as LVIS, both in turn in one process, so that a busy
machine slows both; and the peak memory of ours, reading included, in a process of its own.

    python benchmarks/evaluation.py --images 1000

At 20 000 images lvis 0.5.3 wants more than 20 GiB.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _timing
import numpy as np

from gridclip.evaluation.detections import DetectionTable, read_detections
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.lvis import evaluate
from gridclip.io.run_metrics import LVIS_METRICS

if TYPE_CHECKING:
    from lvis import LVISEval

CATEGORIES, BOXES_PER_IMAGE, DETECTIONS_PER_IMAGE = 1203, 8, 300


def main() -> None:
    given = _timing.arguments(__doc__, images=1000)
    if given.quick:
        given.images = 50
    if given.memory:
        files = [Path(file) for file in given.memory.split(",")]
        _timing.print_peak(lambda: figures(*read(*files)))
        return
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        files = write_data(Path(folder), given.images)
        taken, said = measure(files, given.rounds)
        peak = _timing.memory_of(",".join(map(str, files)))
    check(said["ours"], said["lvis"])
    size = f"{given.images} images × {DETECTIONS_PER_IMAGE} boxes, {CATEGORIES} names"
    ours, peer = (
        [sum(each) for each in zip(taken[f"{side} reads"], taken[side], strict=True)]
        for side in ("ours", "lvis")
    )
    rows = [
        _timing.row(
            f"LVIS evaluation, {size}: times faster",
            taken["ours"],
            taken["lvis"],
            "≥ 40",
            faster=True,
        ),
        _timing.row("the same and reading json: times faster", ours, peer, "–", faster=True),
        _timing.memory_row("the same: memory against 2 GB", peak, 2 * 2**30, "≤ 1"),
    ]
    _timing.report(rows, given)


def measure(
    files: tuple[Path, Path], rounds: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Seconds of reading and of evaluating, and the figures of both sides."""
    np.float = float  # type: ignore[attr-defined]  # a name that lvis 0.5.3 needs
    from lvis import LVISEval

    held: dict[str, Any] = {}
    said: dict[str, dict[str, float]] = {}
    sides = {
        "ours reads": lambda: held.update(ours=read(*files)),
        "ours": lambda: said.update(ours=figures(*held.pop("ours"))),
        "lvis reads": lambda: held.update(lvis=LVISEval(*map(str, files), "bbox")),
        "lvis": lambda: said.update(lvis=lvis_figures(held.pop("lvis"))),
    }
    return _timing.seconds(sides, rounds, warm_up=False), said


def read(annotations: Path, detections: Path) -> tuple[GroundTruth, DetectionTable]:
    return GroundTruth.of(annotations), read_detections(detections)


def figures(truth: GroundTruth, found: DetectionTable) -> dict[str, float]:
    return evaluate(truth, found, protocol="standard").scalars()


def lvis_figures(evaluation: "LVISEval") -> dict[str, float]:
    evaluation.run()
    return {name: float(evaluation.results[name]) for name in LVIS_METRICS}


def check(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Both must say the same, or their times mean nothing."""
    gap = max(abs(ours[name] - theirs[name]) for name in LVIS_METRICS)
    assert gap < 1e-9, f"the figures differ by {gap}"


def write_data(folder: Path, count: int) -> tuple[Path, Path]:
    """Annotations, and detections of which a third lie near a box."""
    random = np.random.default_rng(0)
    category_ids = np.arange(1, CATEGORIES + 1)
    annotated, detected = folder / "annotations.json", folder / "detections.json"
    images, annotations = [], []
    with detected.open("w", encoding="ascii") as file:
        for image in range(1, count + 1):
            categories = random.choice(category_ids, BOXES_PER_IMAGE)
            absent = random.choice(category_ids, 12, replace=False)
            boxes = random.uniform(5, 250, (BOXES_PER_IMAGE, 4))
            images.append(
                {
                    "id": image,
                    "neg_category_ids": np.setdiff1d(absent, categories).tolist(),
                    "not_exhaustive_category_ids": categories[:1].tolist(),
                }
            )
            for category, box in zip(categories.tolist(), boxes.tolist(), strict=True):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": category}
                    | {"bbox": box, "area": 0.7 * box[2] * box[3]}
                )
            near = random.integers(0, BOXES_PER_IMAGE, DETECTIONS_PER_IMAGE)
            right = random.random(len(near)) < 1 / 3
            found = DetectionTable(
                np.full(len(near), image),
                np.where(right, categories[near], random.choice(category_ids, len(near))),
                boxes[near] * random.uniform(0.8, 1.25, (len(near), 4)),
                random.random(len(near)),
            )
            file.write("[" if image == 1 else ",")
            file.write(json.dumps(found.to_json())[1:-1])
        file.write("]")
    names = [
        {"id": category, "name": f"category {category}", "frequency": "rcf"[category % 3]}
        for category in category_ids.tolist()
    ]
    content = {"images": images, "categories": names, "annotations": annotations}
    annotated.write_text(json.dumps(content), encoding="ascii")
    return annotated, detected


if __name__ == "__main__":
    main()
