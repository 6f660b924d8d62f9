"""Our figures beside those of lvis 0.5.3 (federated files) and pycocotools (plain COCO files)."""

import contextlib
import io
import json
import math
from collections import defaultdict
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gridclip.evaluation.lvis import evaluate
from gridclip.io.run_metrics import FALSE_ALARM_METRICS, LVIS_METRICS

lvis = pytest.importorskip("lvis")
np.float = float  # lvis 0.5.3 needs the name that numpy took away

RELAXED = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


def random_boxes(random, count, extent, whole):
    """Boxes xywh that often overlap and touch; whole numbers make many IoUs equal."""
    boxes = random.integers(0, extent, (count, 4)).astype(float)
    boxes[:, 2:] += 1
    return boxes if whole else boxes + random.random((count, 4)).round(3)


@st.composite
def scenes(draw, federated=True):
    """An annotation file and detections for it, from a few drawn switches and a seed."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_images, num_categories = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    num_boxes = draw(st.sampled_from([12, 25, 5, 1, 0]))
    num_detections = draw(st.sampled_from([60, 200, 420 * num_images, 10, 0]))
    if not federated:  # pycocotools caps a category of an image, not an image: stay below
        num_detections = min(num_detections, 200)
    extent = draw(st.sampled_from([40, 150, 400]))  # so that small, medium and large all occur
    whole, ties = draw(st.booleans()), draw(st.booleans())
    image_ids = random.choice(1000, num_images, replace=False).tolist()
    *category_ids, unknown = random.choice(12, num_categories + 1, replace=False).tolist()
    listed = [*category_ids, unknown]  # what lists name need not be a category of the file

    def some_categories():
        count = int(random.integers(0, num_categories + 1))
        return random.choice(listed, count, replace=False).tolist()

    images = [
        {"id": image, "neg_category_ids": some_categories()}
        | {"not_exhaustive_category_ids": some_categories()}
        for image in image_ids
    ]
    if not federated:
        images = [{"id": image} for image in image_ids]
    categories = [
        {"id": category, "name": f"name {category}", "frequency": str(random.choice(list("rcf")))}
        for category in category_ids
    ]
    boxes = random_boxes(random, num_boxes, extent, whole)
    # As if from masks: mostly smaller than the box, seldom larger, sometimes nothing at all.
    areas = (
        boxes[:, 2]
        * boxes[:, 3]
        * random.choice([0.6, 1, 1.4, 0], num_boxes, p=[0.5, 0.3, 0.15, 0.05])
    )
    annotations = [
        {
            "id": number,
            "image_id": int(random.choice(image_ids)),
            "category_id": int(random.choice(category_ids)),
            "bbox": box.tolist(),
            "area": float(area),
        }
        for number, (box, area) in enumerate(zip(boxes, areas, strict=True), start=1)
    ]
    found = random_boxes(random, num_detections, extent, whole)
    scores = random.random(num_detections)
    if ties:
        scores = scores.round(1)
    detections = []
    for box, score in zip(found, scores, strict=True):
        image, category = int(random.choice(image_ids)), int(random.choice(category_ids))
        if annotations and random.random() < 0.6:  # near an annotated box
            near = annotations[random.integers(len(annotations))]
            image, category = near["image_id"], near["category_id"]
            box = np.array(near["bbox"]) + random.integers(-1, 2, 4)
            box[2:] = box[2:].clip(0 if federated else 1)  # no width, no height: lvis drops it
        detections.append(
            {"image_id": image, "category_id": category, "bbox": box.tolist(), "score": score}
        )
    content = {"images": images, "categories": categories, "annotations": annotations}
    subset = random.choice(image_ids, random.integers(1, num_images + 1), replace=False)
    return content, detections, subset.tolist()


def figures_of_lvis(path, detections, image_ids=None, max_dets=300):
    """What lvis itself says: its nine figures, and AP by category from its precision."""
    truth = lvis.LVIS(str(path))
    detections = deepcopy(detections)
    if not detections:  # which lvis can't take: one in a new image about which nothing is known
        truth.dataset["images"].append(
            {"id": -1, "neg_category_ids": [], "not_exhaustive_category_ids": []}
        )
        truth._create_index()
        category = truth.dataset["categories"][0]["id"]
        detections = [{"image_id": -1, "category_id": category, "bbox": [0, 0, 1, 1], "score": 1}]
    results = lvis.LVISResults(truth, detections, max_dets=max_dets)
    evaluation = lvis.LVISEval(truth, results, "bbox")
    if image_ids is not None:
        evaluation.params.img_ids = sorted(image_ids)
    evaluation.run()
    figures = {name: evaluation.results[name] for name in LVIS_METRICS}
    for k, category in enumerate(evaluation.params.cat_ids):
        precision = evaluation.eval["precision"][:, :, k, 0]
        defined = precision[precision > -1]
        figures[truth.cats[category]["name"]] = defined.mean() if defined.size else -1
    return {name: math.nan if value == -1 else value for name, value in figures.items()}


def best_by_category(detections, limit):
    """The fixed protocol as its authors' script does it: sort, then cut."""
    by_category = defaultdict(list)
    for detection in detections:
        by_category[detection["category_id"]].append(detection)
    return [
        detection
        for group in by_category.values()
        for detection in sorted(group, key=lambda each: each["score"], reverse=True)[:limit]
    ]


def assert_same(metrics, expected):
    ours = metrics.scalars() | metrics.per_category
    assert ours.keys() - expected.keys() <= {*FALSE_ALARM_METRICS}  # which lvis does not know
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


@pytest.mark.slow  # eight seconds; make parity runs it
@settings(max_examples=250, **RELAXED)
@given(scene=scenes(), protocol=st.sampled_from(["standard", "fixed"]), subset=st.booleans())
def test_every_figure_equals_that_of_lvis(tmp_path, scene, protocol, subset):
    content, detections, image_ids = scene
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    image_ids = image_ids if subset else None
    metrics = evaluate(path, detections, protocol=protocol, image_ids=image_ids)
    max_dets = 300 if protocol == "standard" else -1
    assert_same(metrics, figures_of_lvis(path, detections, image_ids, max_dets))


@settings(max_examples=25, **RELAXED)
@given(scene=scenes(), protocol=st.sampled_from(["standard", "fixed"]))
def test_both_backends_agree(tmp_path, scene, protocol):
    content, detections, image_ids = scene
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    ours, reference = (
        evaluate(path, detections, protocol=protocol, image_ids=image_ids, backend=backend)
        for backend in ("hotcoco", "lvis")
    )
    assert_same(ours, reference.scalars() | reference.per_category)


def test_the_fixed_protocol_keeps_ten_thousand_boxes_of_a_category(tmp_path):
    """Thousands share the score at the cut; there, those earlier in the file stay."""
    image = {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    boxes = [
        {"image_id": n % 4, "category_id": 1, "bbox": [40 * n, 0, 20, 20], "area": 400}
        for n in range(8)
    ]
    content = {
        "images": [image | {"id": number} for number in range(4)],
        "categories": [{"id": 1, "name": "cup", "frequency": "f"}],
        "annotations": [box | {"id": number} for number, box in enumerate(boxes, start=1)],
    }
    wrong = {"category_id": 1, "bbox": [0, 500, 20, 20]}
    detections = [
        wrong | {"image_id": n % 4, "score": 0.9 if n % 3 else 0.5} for n in range(10_400)
    ]
    for place, box in zip([50, 60, 70, 80, -4, -3, -2, -1], boxes, strict=True):
        detections[place] = box | {"score": 0.5}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    kept = best_by_category(detections, 10_000)
    expected = figures_of_lvis(path, kept, max_dets=-1)
    assert 0 < expected["AP"] < figures_of_lvis(path, detections, max_dets=-1)["AP"]
    assert_same(evaluate(path, detections, protocol="fixed"), expected)


def figures_of_pycocotools(path, detections):
    """AP of COCO, read from its precision because its summary knows only 100 boxes an image."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(deepcopy(detections)), "bbox")
        evaluation.params.maxDets = [300]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]
    cuts = {
        "AP": precision[..., 0],
        "AP50": precision[0, ..., 0],
        "AP75": precision[5, ..., 0],
        "APs": precision[..., 1],
        "APm": precision[..., 2],
        "APl": precision[..., 3],
    }
    return {
        name: cut[cut > -1].mean() if (cut > -1).any() else math.nan for name, cut in cuts.items()
    }


@settings(max_examples=60, **RELAXED)
@given(scene=scenes(federated=False))
def test_a_plain_coco_file_gets_the_figures_of_coco(tmp_path, scene):
    content, detections, _ = scene
    # pycocotools takes a box without area as one to find, lvis as none; and no empty list.
    content["annotations"] = [each for each in content["annotations"] if each["area"] > 0]
    assume(detections)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    for category in content["categories"]:
        del category["frequency"]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    metrics = evaluate(path, detections, protocol="standard")
    for name, value in figures_of_pycocotools(path, detections).items():
        assert metrics.scalars()[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    assert all(math.isnan(value) for value in (metrics.APr, metrics.APc, metrics.APf))


def test_real_lvis_records_get_the_figures_of_lvis(test_data, tmp_path):
    path = test_data / "lvis" / "lvis_val_100.json"
    random = np.random.default_rng(0)
    content = json.loads(path.read_text())
    detections = [
        {
            "image_id": box["image_id"],
            "category_id": box["category_id"],
            "bbox": [value * random.uniform(0.9, 1.1) for value in box["bbox"]],
            "score": random.random(),
        }
        for box in content["annotations"]
        for _ in range(4)
    ]
    metrics = evaluate(path, detections, protocol="standard")
    assert 0.1 < metrics.AP < 0.9
    assert_same(metrics, figures_of_lvis(path, detections))


@pytest.fixture
def cups(tmp_path):
    """Two images with a cup each, and what a perfect detector finds in the first."""
    image = {"neg_category_ids": [7], "not_exhaustive_category_ids": []}
    content = {
        "images": [image | {"id": 11}, image | {"id": 12}],
        "categories": [
            {"id": 3, "name": "cup", "frequency": "r"},
            {"id": 7, "name": "fork", "frequency": "f"},
        ],
        "annotations": [
            {"id": 1, "image_id": 11, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500},
            {"id": 2, "image_id": 12, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500},
        ],
    }
    detections = [{"image_id": 11, "category_id": 3, "bbox": [0, 0, 50, 50], "score": 0.9}]
    return content, detections, tmp_path / "cups.json"


def test_images_that_were_not_run_do_not_count_as_missed(cups):
    content, detections, path = cups
    path.write_text(json.dumps(content))
    assert math.isclose(evaluate(path, detections, protocol="standard").AP, 51 / 101)
    part = evaluate(path, detections, protocol="standard", image_ids=[11, 11])
    assert math.isclose(part.AP, 1)
    assert part.num_images == 1


def test_an_annotation_with_the_id_0_can_be_found(cups):
    content, detections, path = cups
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number
    path.write_text(json.dumps(content))
    expected = figures_of_lvis(path, detections, [11])
    assert expected["AP"] == 0  # what lvis makes of it
    for backend in ("hotcoco", "lvis"):
        metrics = evaluate(path, detections, protocol="standard", image_ids=[11], backend=backend)
        assert math.isclose(metrics.AP, 1)


def test_finding_nothing_scores_zero_where_there_is_something_to_find(cups):
    content, _, path = cups
    path.write_text(json.dumps(content))
    for backend in ("hotcoco", "lvis"):
        metrics = evaluate(path, [], protocol="standard", backend=backend)
        assert (metrics.AP, metrics.APr, metrics.APm) == (0, 0, 0)
        assert math.isnan(metrics.APf)
        assert math.isnan(metrics.APl)
        assert math.isnan(metrics.per_category["fork"])


def test_no_image_gives_no_figure(cups):
    content, detections, path = cups
    path.write_text(json.dumps(content))
    for backend in ("hotcoco", "lvis"):
        metrics = evaluate(path, detections, protocol="fixed", image_ids=[], backend=backend)
        assert metrics.num_images == 0
        assert all(math.isnan(value) for value in metrics.scalars().values())


def test_the_300_best_are_chosen_before_unannotated_categories_are_left_out(cups):
    content, detections, path = cups
    content["categories"].append({"id": 9, "name": "moon", "frequency": "c"})
    path.write_text(json.dumps(content))
    moons = [{"image_id": 11, "category_id": 9, "bbox": [0, 0, 9, 9], "score": 1.0}] * 300
    standard = evaluate(path, moons + detections, protocol="standard", image_ids=[11])
    fixed = evaluate(path, moons + detections, protocol="fixed", image_ids=[11])
    assert standard.AP == 0
    assert math.isclose(fixed.AP, 1)


def test_of_equal_scores_at_the_cut_the_earlier_in_the_file_stay(cups):
    content, detections, path = cups
    path.write_text(json.dumps(content))
    forks = [{"image_id": 11, "category_id": 7, "bbox": [0, 0, 9, 9], "score": 0.9}] * 300
    last = evaluate(path, forks + detections, protocol="standard", image_ids=[11])
    first = evaluate(path, detections + forks, protocol="standard", image_ids=[11])
    assert last.AP == figures_of_lvis(path, forks + detections, [11])["AP"] == 0
    assert math.isclose(first.AP, 1)


def test_the_callers_detections_stay_as_they_are(cups):
    content, detections, path = cups
    path.write_text(json.dumps(content))
    before = deepcopy(detections)
    for backend in ("hotcoco", "lvis"):
        evaluate(path, detections, protocol="standard", backend=backend)
    assert detections == before


def test_a_crowd_in_a_coco_file_is_neither_found_nor_missed(cups):
    content, detections, path = cups
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    content["annotations"].append(
        {"id": 3, "image_id": 11, "category_id": 3, "bbox": [100, 100, 90, 90], "area": 8100}
        | {"iscrowd": 1}
    )
    path.write_text(json.dumps(content))
    in_crowd = {"image_id": 11, "category_id": 3, "bbox": [110, 110, 20, 20], "score": 1.0}
    metrics = evaluate(path, [in_crowd, *detections], protocol="standard", image_ids=[11])
    assert math.isclose(metrics.AP, 1)
    elsewhere = {"image_id": 12, "category_id": 3, "bbox": [110, 110, 20, 20], "score": 1.0}
    wrong = evaluate(path, [elsewhere, *detections], protocol="standard")
    assert wrong.AP < 0.5


def test_a_box_marked_ignore_is_neither_found_nor_missed(cups):
    content, detections, path = cups
    content["annotations"][1]["ignore"] = 1
    path.write_text(json.dumps(content))
    on_it = {"image_id": 12, "category_id": 3, "bbox": [0, 0, 50, 50], "score": 1.0}
    for found in (detections, [on_it, *detections]):
        metrics = evaluate(path, found, protocol="standard")
        assert math.isclose(metrics.AP, 1)
        assert_same(metrics, figures_of_lvis(path, found))


def test_ids_too_large_for_a_float_and_below_zero_are_kept_apart(cups):
    content, detections, path = cups
    text = json.dumps(content).replace("11", str(2**60)).replace("12", str(2**60 + 1))
    path.write_text(text)
    detections[0]["image_id"] = 2**60
    assert math.isclose(evaluate(path, detections, protocol="standard").AP, 51 / 101)
    part = evaluate(path, detections, protocol="standard", image_ids=[2**60])
    assert math.isclose(part.AP, 1)
    assert part.num_images == 1
    path.write_text(json.dumps(content).replace("11", "-5"))
    detections[0]["image_id"] = -5
    assert math.isclose(evaluate(path, detections, protocol="standard").AP, 51 / 101)
