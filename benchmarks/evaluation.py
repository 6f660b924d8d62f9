"""How long does LVIS AP take, from two json files to nine figures: here and with lvis 0.5.3?

One synthetic data set, both in turn in one process, so that a busy machine slows both. Needs under
a minute:  python benchmarks/evaluation.py
"""

import importlib.metadata
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gridclip.evaluation.lvis import FIGURES, evaluate

IMAGES, CATEGORIES, BOXES_PER_IMAGE, DETECTIONS_PER_IMAGE = 300, 120, 8, 300
ROUNDS = 3


def main() -> None:
    logging.disable(logging.WARNING)
    np.float = float  # type: ignore[attr-defined]  # a name that lvis 0.5.3 needs
    from lvis import LVISEval

    def reference(annotations: Path, detections: Path) -> dict[str, float]:
        evaluation = LVISEval(str(annotations), str(detections), "bbox")
        evaluation.run()
        return {name: float(evaluation.results[name]) for name in FIGURES}

    def ours(annotations: Path, detections: Path) -> dict[str, float]:
        return evaluate(annotations, detections, protocol="standard").scalars()

    with tempfile.TemporaryDirectory() as folder:
        files = write_data(Path(folder))
        ours(*files)  # imports hotcoco
        rounds = [(timed(ours, files), timed(reference, files)) for _ in range(ROUNDS)]
    gap = max(abs(a[name] - b[name]) for (_, a), (_, b) in rounds for name in FIGURES)
    assert gap < 1e-9, f"the figures differ by {gap}"
    report([fast for (fast, _), _ in rounds], [slow for _, (slow, _) in rounds], gap)


def write_data(folder: Path) -> tuple[Path, Path]:
    """Annotations, and detections of which a third lie near a box."""
    random = np.random.default_rng(0)
    category_ids = np.arange(1, CATEGORIES + 1)
    images, annotations, detections = [], [], []
    for image in range(1, IMAGES + 1):
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


def timed(
    run: Callable[[Path, Path], dict[str, float]], files: tuple[Path, Path]
) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    figures = run(*files)
    return time.perf_counter() - start, figures


def report(fast: list[float], slow: list[float], gap: float) -> None:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("hotcoco", "lvis", "numpy")
    )
    ratios = [b / a for a, b in zip(fast, slow, strict=True)]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"Python {platform.python_version()}, {versions}")
    print(f"{IMAGES} images, {CATEGORIES} categories, {IMAGES * DETECTIONS_PER_IMAGE} detections")
    for name, seconds in (("gridclip", fast), ("lvis", slow), ("lvis / gridclip", ratios)):
        unit = "x" if "/" in name else "s"
        print(
            f"{name:16} median {statistics.median(seconds):7.2f} {unit}"
            f"   (of {ROUNDS}: {min(seconds):.2f} to {max(seconds):.2f})"
        )
    print(f"largest difference between their figures: {gap:.1e}")


if __name__ == "__main__":
    main()
