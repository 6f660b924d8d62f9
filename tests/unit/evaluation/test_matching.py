"""AP from the file of matches, beside AP from annotations and detections."""

import json

import numpy as np
import pytest
from found_world import world

from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.lvis import choose, evaluate, measure
from gridclip.evaluation.matching import match
from gridclip.io.errors import InputError
from gridclip.io.matches import find_matches, read_matches, write_matches

FROM_MATCHES = ("AP", "AP50", "AP75", "APr", "APc", "APf", "AP50r", "AP50c", "AP50f")


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
