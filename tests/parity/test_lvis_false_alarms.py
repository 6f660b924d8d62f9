"""The threshold of few false alarms by a loop over images and names, and AP above it by lvis."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lvis_evaluation import RELAXED, figures_of_lvis, scenes

from gridclip.evaluation.lvis import evaluate


def absent_pairs(content):
    """Image by image, the names that are verified to be absent; each pair once."""
    names = [each["id"] for each in content["categories"]]
    shown = {
        (each["image_id"], each["category_id"])
        for each in content["annotations"]
        if each["area"] > 0  # others are none to lvis
    }
    pairs = []
    for image in content["images"]:
        for name in names:
            listed = name in image.get("neg_category_ids", names)
            partial = name in image.get("not_exhaustive_category_ids", [])
            if listed and not partial and (image["id"], name) not in shown:
                pairs.append((image["id"], name))
    return pairs


def best_of_each_image(detections, limit=300):
    kept = []
    for image in {each["image_id"] for each in detections}:
        own = [each for each in detections if each["image_id"] == image]
        kept += sorted(own, key=lambda each: -each["score"])[:limit]
    return kept


def naive_threshold(content, detections, limit):
    """Tries every score from below: the share of alarms above it, and the first that will do."""
    pairs, kept = absent_pairs(content), best_of_each_image(detections)
    if not pairs:
        return math.nan, math.nan
    for threshold in sorted({-math.inf, *(each["score"] for each in kept)}):
        alarms = 0
        for pair in pairs:
            alarms += sum(
                (each["image_id"], each["category_id"]) == pair and each["score"] > threshold
                for each in kept
                if each["bbox"][2] * each["bbox"][3] > 0
            )
        if alarms / len(pairs) <= limit:
            return threshold, alarms / len(pairs)
    raise AssertionError("no score is above the highest")


@settings(max_examples=25, **RELAXED)
@given(
    scene=st.booleans().flatmap(lambda federated: scenes(federated=federated)),
    limit=st.sampled_from([0.05, 0.3, 0.0, 1.0, 4.0]),
)
def test_threshold_and_ap_above_it_are_those_of_a_loop_and_of_lvis(tmp_path, scene, limit):
    content, detections, _ = scene
    detections = detections[:420]  # more of one image than are scored, and not for too long
    if "neg_category_ids" not in content["images"][0]:
        for each in content["annotations"]:  # of COCO form: boxes without an area are objects too
            each["area"] = each["area"] or each["bbox"][2] * each["bbox"][3]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    metrics = evaluate(path, detections, protocol="standard", false_alarms=limit)
    threshold, rate = naive_threshold(content, detections, limit)
    assert metrics.false_alarms == pytest.approx((limit, rate, threshold), nan_ok=True)
    if math.isnan(threshold):
        assert math.isnan(metrics.APfa)
        return
    # To lvis, a COCO file is one that lists every name of every image as absent.
    names = [each["id"] for each in content["categories"]]
    lists = {"neg_category_ids": names, "not_exhaustive_category_ids": []}
    content["images"] = [lists | each for each in content["images"]]
    path.write_text(json.dumps(content))
    left = [each for each in detections if each["score"] > threshold]
    expected = figures_of_lvis(path, left)
    assert metrics.APfa == pytest.approx(expected["AP"], abs=1e-9, nan_ok=True)
    assert metrics.AP50fa == pytest.approx(expected["AP50"], abs=1e-9, nan_ok=True)
