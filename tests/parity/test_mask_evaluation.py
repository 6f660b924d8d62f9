"""AP of masks beside lvis 0.5.3 (federated files) and pycocotools (plain COCO files)."""

import contextlib
import io
import json
import math
from copy import deepcopy

import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gridclip.evaluation.lvis import evaluate
from gridclip.io.run_metrics import LVIS_METRICS

lvis = pytest.importorskip("lvis")
np.float = float  # lvis 0.5.3 needs the name that numpy took away

HEIGHT, WIDTH, IMAGES, CATEGORIES = 150, 200, (7, 2, 9, 4), (3, 5, 8)


def code(pixels):
    found = coco.encode(np.asfortranarray(pixels))
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def ellipse(box, tilt):
    x, y, width, height = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    u, v = (columns - x) / width * 2 - 1, (rows - y) / height * 2 - 1
    return ((u + tilt * v) ** 2 + v**2 < 1).astype(np.uint8)


def some_box(random):
    sides = random.choice([15, 50, 120], p=[0.4, 0.4, 0.2]) * random.uniform(0.6, 1.2, 2)
    return np.concatenate([random.uniform(0, 1, 2) * [WIDTH - 20, HEIGHT - 20], sides])


def some_image_and_category(random):
    return {"image_id": int(random.choice(IMAGES)), "category_id": int(random.choice(CATEGORIES))}


def annotated(random, number):
    """An ellipse as a code, or a triangle as a polygon; and its pixels."""
    x, y, width, height = place = some_box(random)
    if number % 2:
        pixels = ellipse(place, 0.3)
        segmentation = code(pixels)
    else:
        segmentation = [np.round([x, y, x + width, y + height, x, y + height], 2).tolist()]
        pixels = coco.decode(coco.merge(coco.frPyObjects(segmentation, HEIGHT, WIDTH)))
    facts = {"id": number, "bbox": place.tolist(), "area": float(pixels.sum()), "iscrowd": 0}
    return facts | some_image_and_category(random) | {"segmentation": segmentation}, pixels


def detected(random, annotations, shapes):
    """Most near an annotated object, some elsewhere, a few of no pixel at all."""
    row, where, place = random.integers(14), some_image_and_category(random), some_box(random)
    pixels = ellipse(place, random.normal(0, 0.3))
    if random.random() < 0.7:
        where = {key: annotations[row][key] for key in where}
        pixels = np.roll(shapes[row], random.integers(-4, 5, 2), (0, 1))
    if random.random() < 0.1:
        pixels = np.zeros_like(pixels)
    score = round(random.random(), 1)
    return where | {"score": score, "bbox": place.tolist(), "segmentation": code(pixels)}


def scene(seed, federated):
    """Annotations of four images, and detections in them."""
    random = np.random.default_rng(seed)
    images = [{"id": number, "height": HEIGHT, "width": WIDTH} for number in IMAGES]
    for image in images if federated else []:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [each for each in CATEGORIES if random.random() < 0.3]
    annotations, shapes = zip(*(annotated(random, number) for number in range(1, 15)), strict=True)
    detections = [detected(random, annotations, shapes) for _ in range(90)]
    kinds = [
        {"id": each, "name": f"name {each}", "frequency": letter}
        for each, letter in zip(CATEGORIES, "rcf", strict=True)
    ]
    return {"images": images, "categories": kinds, "annotations": annotations}, detections


def without_boxes(detections):
    """Else both take the area of the box for that of the mask."""
    return [
        {key: value for key, value in each.items() if key != "bbox"}
        for each in deepcopy(detections)
    ]


def figures_of_lvis(path, detections, max_dets):
    truth = lvis.LVIS(str(path))
    results = lvis.LVISResults(truth, without_boxes(detections), max_dets=max_dets)
    evaluation = lvis.LVISEval(truth, results, "segm")
    evaluation.run()
    figures = {name: evaluation.results[name] for name in LVIS_METRICS}
    return {name: math.nan if value == -1 else value for name, value in figures.items()}


def figures_of_coco(path, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(without_boxes(detections)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = dict(zip(LVIS_METRICS[:6], evaluation.stats[:6], strict=True))
    return {name: math.nan if value == -1 else value for name, value in figures.items()}


def assert_same(metrics, expected):
    for name, value in expected.items():
        ours = metrics.of_masks[f"segm_{name}"]
        assert ours == pytest.approx(value, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("protocol", ["standard", "fixed"])
@pytest.mark.parametrize("seed", range(6))
def test_figures_of_masks_are_those_of_lvis(tmp_path, seed, protocol):
    content, detections = scene(seed, federated=True)
    path, results = tmp_path / "val.json", tmp_path / "found.json"
    path.write_text(json.dumps(content))
    results.write_text(json.dumps(detections))
    metrics = evaluate(path, results, protocol=protocol, masks=True)
    expected = figures_of_lvis(path, detections, 300 if protocol == "standard" else -1)
    assert 0 < expected["AP"] < 1
    assert_same(metrics, expected)
    reference = evaluate(path, detections, protocol=protocol, masks=True, backend="lvis")
    assert_same(metrics, {name: reference.of_masks[f"segm_{name}"] for name in LVIS_METRICS})
    boxes = evaluate(path, detections, protocol=protocol)
    assert boxes.of_masks == {}
    assert boxes.AP == metrics.AP != metrics.of_masks["segm_AP"]


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_masks_are_those_of_pycocotools(tmp_path, seed):
    content, detections = scene(seed, federated=False)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    metrics = evaluate(path, detections, protocol="standard", masks=True)
    expected = figures_of_coco(path, [each for each in detections if _has_pixels(each)])
    assert 0 < expected["AP"] < 1
    assert_same(metrics, expected)


def _has_pixels(detection):
    """lvis never looks at what has no area; COCO takes it for a false alarm."""
    return coco.area(detection["segmentation"]) > 0


def test_nothing_found_is_an_ap_of_zero(tmp_path):
    content, _ = scene(0, federated=True)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    assert evaluate(path, [], protocol="standard", masks=True).of_masks["segm_AP"] == 0
