"""AP from the file of matches, beside AP from annotations and detections."""

import json

import numpy as np
import pytest

from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.lvis import choose, evaluate, measure
from gridclip.evaluation.matching import match
from gridclip.io.errors import InputError
from gridclip.io.matches import find_matches, read_matches, write_matches

CATEGORIES = [(3, "cup", "r"), (8, "fork", "c"), (9, "spoon", "f"), (11, "kiwi", "r")]
FROM_MATCHES = ("AP", "AP50", "AP75", "APr", "APc", "APf", "AP50r", "AP50c", "AP50f")


def world(seed, images=7, federated=True):
    """Annotations in LVIS or COCO form, with equal scores and names of which nothing is known."""
    random = np.random.default_rng(seed)
    ids = random.permutation(100)[:images].tolist()
    names = [category for category, *_ in CATEGORIES[:3]]  # of kiwi there is no box

    def some():
        return random.choice(names, random.integers(0, 3), replace=False).tolist()

    boxes, found = [], []
    for image in ids:
        for _ in range(random.integers(0, 6)):
            box = [*random.integers(0, 60, 2).tolist(), *random.integers(5, 120, 2).tolist()]
            boxes.append((image, int(random.choice(names)), box))
            near = (np.array(box) + random.integers(-2, 3, 4)).clip(1).tolist()
            found.append((image, boxes[-1][1], near))
        for _ in range(12):
            box = [*random.integers(0, 60, 2).tolist(), *random.integers(5, 80, 2).tolist()]
            found.append((image, int(random.choice([*names, 11])), box))
    content = {
        "images": [
            {"id": image, "file_name": f"{image}.jpg", "width": 200, "height": 200}
            | (
                {"neg_category_ids": some(), "not_exhaustive_category_ids": some()}
                if federated
                else {}
            )
            for image in ids
        ],
        "categories": [{"id": k, "name": n, "frequency": f} for k, n, f in CATEGORIES],
        "category_groups": {"held-out": ["cup", "kiwi"], "tools": [8, 9]},
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3]}
            for n, (i, k, box) in enumerate(boxes, 1)
        ],
    }
    detections = [
        {"image_id": i, "category_id": k, "bbox": box, "score": float(random.integers(1, 9)) / 10}
        for i, k, box in found
    ]
    return content, detections


def copied(rows, copies, key="image_id"):
    """Every row once for each copy of its image; a copy's id is 1000 times its number more."""
    return [row | {key: row[key] + 1000 * copy} for row in rows for copy in range(copies[row[key]])]


@pytest.fixture
def file(tmp_path):
    def write(content):
        (tmp_path / "val.json").write_text(json.dumps(content))
        return tmp_path / "val.json"

    return write


def from_matches(matches, weights=None):
    precision = matches.precision(weights)
    figures = {name: value[0] for name, value in matches.figures(precision).items()}
    per_category = dict(zip(matches.names, precision[0].mean(0), strict=True))
    return figures, per_category


def same(figures, metrics):
    expected = {name: getattr(metrics, name) for name in FROM_MATCHES} | dict(metrics.of_groups)
    return figures == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("federated", [True, False])
@pytest.mark.parametrize("protocol", ["standard", "fixed"])
@pytest.mark.parametrize("seed", range(4))
def test_ap_from_the_file_is_the_metrics_own(file, tmp_path, seed, protocol, federated):
    content, detections = world(seed, federated=federated)
    scored = choose(file(content), detections, protocol=protocol)
    write_matches(match(scored), tmp_path / "metrics.matches.safetensors")
    figures, per_category = from_matches(read_matches(find_matches(tmp_path)))
    metrics = measure(scored)
    assert metrics.AP > 0.05
    assert same(figures, metrics)
    assert per_category == pytest.approx(metrics.per_category, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_images_that_count_nought_once_and_twice_are_images_left_out_kept_and_copied(file, seed):
    content, detections = world(seed)
    for row, each in enumerate(detections):
        each["score"] = 1 - row / 1000  # of equal scores copies could rank either way
    matches = match(choose(file(content), detections, protocol="fixed"))
    weights = np.random.default_rng(seed).integers(0, 3, len(matches.image_ids))
    copies = dict(zip(matches.image_ids.tolist(), weights.tolist(), strict=True))
    twice = content | {
        "images": copied(content["images"], copies, "id"),
        "annotations": [
            row | {"id": n} for n, row in enumerate(copied(content["annotations"], copies), 1)
        ],
    }
    metrics = evaluate(file(twice), copied(detections, copies), protocol="fixed")
    figures, per_category = from_matches(matches, weights[None])
    assert same(figures, metrics)
    assert per_category == pytest.approx(metrics.per_category, abs=1e-9, nan_ok=True)


def test_many_samples_at_once_are_those_samples_one_by_one(file):
    matches = match(choose(file(world(0)[0]), world(0)[1], protocol="standard"))
    weights = np.random.default_rng(0).integers(0, 3, (5, len(matches.image_ids)))
    together = matches.precision(weights)
    alone = [matches.precision(each[None])[0] for each in weights]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_more_images_than_are_looked_at_together_change_nothing(file, monkeypatch):
    content, detections = world(1)
    scored = choose(file(content), detections, protocol="standard")
    whole = match(scored)
    monkeypatch.setattr("gridclip.evaluation.matching._IMAGES", 2)
    for one, other in zip(whole, match(scored), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("images", [0, 3])
def test_nothing_found_or_no_image_run_leaves_a_file_all_the_same(file, tmp_path, images):
    content, _ = world(2)
    ids = [each["id"] for each in content["images"][:images]]
    scored = choose(file(content), [], protocol="standard", image_ids=ids)
    write_matches(match(scored), tmp_path / "a.matches.safetensors")
    figures, _ = from_matches(read_matches(tmp_path / "a.matches.safetensors"))
    assert same(figures, measure(scored))


def test_what_cannot_be_compared_is_refused_with_what_differs(file, tmp_path):
    content, detections = world(3)
    truth = GroundTruth.of(file(content))
    one, other = (match(choose(truth, detections, protocol=p)) for p in ("standard", "fixed"))
    with pytest.raises(InputError, match="protocol differ"):
        one.require_same_truth(other, tmp_path)
    few = match(choose(truth, [], protocol="standard", image_ids=truth.image_ids[:3].tolist()))
    with pytest.raises(InputError, match="image_ids differ"):
        one.require_same_truth(few, tmp_path)


def test_a_file_that_contradicts_itself_or_is_absent_is_refused(file, tmp_path):
    content, detections = world(3)
    matches = match(choose(file(content), detections, protocol="standard"))
    write_matches(matches._replace(images=matches.images + 100), tmp_path / "a.matches.safetensors")
    with pytest.raises(InputError, match="contradicts itself"):
        read_matches(tmp_path / "a.matches.safetensors")
    with pytest.raises(InputError, match="has no results by image"):
        find_matches(tmp_path / "metrics.json")
