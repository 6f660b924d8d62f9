"""How long do the nine figures of LVIS AP take, here and with lvis 0.5.3?

One synthetic data set, both in turn in one process, so that a busy machine slows both; and the peak
memory of ours in a process of its own. Under two minutes at 1000 images:

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images 20000 --rounds 1     (an hour, nearly all of it lvis)
"""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import _timing
import numpy as np

from gridclip.evaluation.annotations import read_annotations
from gridclip.evaluation.detections import read_detections
from gridclip.evaluation.lvis import FIGURES, evaluate

CATEGORIES, BOXES_PER_IMAGE, DETECTIONS_PER_IMAGE = 120, 8, 300


def main() -> None:
    given = _timing.arguments(__doc__, images=1000)
    if given.quick:
        given.images = 50
    if given.memory:
        files = [Path(file) for file in given.memory.split(",")]
        _timing.print_peak(lambda: our_figures(*files))
        return
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        files = write_data(Path(folder), given.images)
        sides = {"ours": lambda: our_figures(*files), "lvis": lambda: lvis_figures(*files)}
        check(sides)
        taken = _timing.seconds(sides, given.rounds, warm_up=False)
        peak = _timing.memory_of(",".join(map(str, files)))
    size = f"LVIS evaluation, {given.images} images × {DETECTIONS_PER_IMAGE} boxes, from json files"
    rows = [
        _timing.row(f"{size}: times faster", taken["ours"], taken["lvis"], "≥ 40", faster=True),
        _timing.memory_row(f"{size}: memory against 2 GB", peak, 2 * 2**30, "≤ 1"),
    ]
    _timing.report(rows, given)


def our_figures(annotations: Path, detections: Path) -> dict[str, float]:
    truth, found = read_annotations(annotations), read_detections(detections)
    return evaluate(truth, found, protocol="standard").scalars()


def lvis_figures(annotations: Path, detections: Path) -> dict[str, float]:
    np.float = float  # type: ignore[attr-defined]  # a name that lvis 0.5.3 needs
    from lvis import LVISEval

    evaluation = LVISEval(str(annotations), str(detections), "bbox")
    evaluation.run()
    return {name: float(evaluation.results[name]) for name in FIGURES}


def check(sides: dict[str, Callable[[], dict[str, float]]]) -> None:
    """Both must say the same, or their times mean nothing."""
    ours, theirs = (run() for run in sides.values())
    gap = max(abs(ours[name] - theirs[name]) for name in FIGURES)
    assert gap < 1e-9, f"the figures differ by {gap}"


def write_data(folder: Path, count: int) -> tuple[Path, Path]:
    """Annotations, and detections of which a third lie near a box."""
    random = np.random.default_rng(0)
    category_ids = np.arange(1, CATEGORIES + 1)
    images, annotations, detections = [], [], []
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
        right = random.random(DETECTIONS_PER_IMAGE) < 1 / 3
        labels = np.where(right, categories[near], random.choice(category_ids, len(near)))
        moved = boxes[near] * random.uniform(0.8, 1.25, (DETECTIONS_PER_IMAGE, 4))
        for label, box, score in zip(
            labels.tolist(), moved.tolist(), random.random(len(near)).tolist(), strict=True
        ):
            detections.append(
                {"image_id": image, "category_id": label, "bbox": box, "score": score}
            )
    categories = [
        {"id": category, "name": f"category {category}", "frequency": "rcf"[category % 3]}
        for category in category_ids.tolist()
    ]
    content = {"images": images, "categories": categories, "annotations": annotations}
    paths = folder / "annotations.json", folder / "detections.json"
    for path, value in zip(paths, (content, detections), strict=True):
        path.write_text(json.dumps(value))
    return paths


if __name__ == "__main__":
    main()
