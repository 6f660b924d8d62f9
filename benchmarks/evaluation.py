"""How long do the nine figures of LVIS AP take, here and with lvis 0.5.3?

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

from gridclip.evaluation.annotations import read_annotations
from gridclip.evaluation.detections import read_detections
from gridclip.evaluation.lvis import FIGURES, evaluate

IMAGES, CATEGORIES, BOXES_PER_IMAGE, DETECTIONS_PER_IMAGE = 200, 120, 8, 300
ROUNDS = 3


def main() -> None:
    logging.disable(logging.WARNING)
    np.float = float  # type: ignore[attr-defined]  # a name that lvis 0.5.3 needs
    from lvis import LVIS, LVISEval

    def lvis_figures(annotations: object, detections: object) -> dict[str, float]:
        evaluation = LVISEval(annotations, detections, "bbox")
        evaluation.run()
        return {name: float(evaluation.results[name]) for name in FIGURES}

    def our_figures(annotations: object, detections: object) -> dict[str, float]:
        return evaluate(annotations, detections, protocol="standard").scalars()

    with tempfile.TemporaryDirectory() as folder:
        files = write_data(Path(folder))
        paths = tuple(map(str, files))
        truth, table, reference = (
            read_annotations(files[0]),
            read_detections(files[1]),
            LVIS(paths[0]),
        )
        our_figures(*files)  # imports hotcoco
        print_machine()
        compare("from two json files", lambda: our_figures(*files), lambda: lvis_figures(*paths))
        found = table.to_json()  # lvis writes into these, but the same each time
        compare(
            "from memory, as after a validation",
            lambda: our_figures(truth, table),
            lambda: lvis_figures(reference, found),
        )


def compare(
    question: str, ours: Callable[[], dict[str, float]], theirs: Callable[[], dict[str, float]]
) -> None:
    """Time both in turn, check that they agree, and print."""
    rounds = [(timed(ours), timed(theirs)) for _ in range(ROUNDS)]
    gap = max(abs(a[name] - b[name]) for (_, a), (_, b) in rounds for name in FIGURES)
    assert gap < 1e-9, f"the figures differ by {gap}"
    fast, slow = [a for (a, _), _ in rounds], [b for _, (b, _) in rounds]
    ratios = [b / a for a, b in zip(fast, slow, strict=True)]
    print(f"\n{question} (largest difference between the figures: {gap:.0e})")
    for name, values, unit in (
        ("gridclip", fast, "s"),
        ("lvis", slow, "s"),
        ("lvis / gridclip", ratios, "x"),
    ):
        spread = f"of {ROUNDS}: {min(values):.2f} to {max(values):.2f}"
        print(f"  {name:16} median {statistics.median(values):7.2f} {unit}   ({spread})")


def timed(run: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    figures = run()
    return time.perf_counter() - start, figures


def print_machine() -> None:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("hotcoco", "lvis", "numpy")
    )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"Python {platform.python_version()}, {versions}")
    print(f"{IMAGES} images, {CATEGORIES} categories, {IMAGES * DETECTIONS_PER_IMAGE} detections")


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


if __name__ == "__main__":
    main()
