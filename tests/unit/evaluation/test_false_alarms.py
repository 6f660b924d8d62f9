"""The one threshold that keeps detections of absent names few, at its edges."""

import json
import math

import pytest

from gridclip.evaluation.lvis import evaluate

CUP, FORK, MOON = 3, 7, 9


def box_of(image, category, score, place=0):
    return {"image_id": image, "category_id": category, "score": score} | {
        "bbox": [place, 0, 50, 50]
    }


@pytest.fixture
def scored(tmp_path):
    """Scores detections in four images that show a cup each; forks are verified to be absent."""

    def score(detections, limit, **changes):
        lists = {"neg_category_ids": [FORK], "not_exhaustive_category_ids": []} | changes
        content = {
            "images": [{"id": image} | lists for image in range(4)],
            "categories": [{"id": each, "name": str(each)} for each in (CUP, FORK, MOON)],
            "annotations": [
                {"id": image + 1, "image_id": image, "category_id": CUP, "bbox": [0, 0, 50, 50]}
                for image in range(4)
            ],
        }
        if lists["neg_category_ids"] is None:  # of COCO form
            content["images"] = [{"id": image} for image in range(4)]
        path = tmp_path / "val.json"
        path.write_text(json.dumps(content))
        return evaluate(path, detections, protocol="standard", false_alarms=limit)

    return score


CUPS = [box_of(image, CUP, 0.9 - 0.2 * image) for image in range(4)]  # 0.9, 0.7, 0.5, 0.3


def test_boxes_above_the_score_that_one_alarm_too_many_has_are_left(scored):
    forks = [box_of(0, FORK, 0.8), box_of(1, FORK, 0.6), box_of(1, FORK, 0.4)]
    metrics = scored(CUPS + forks, 0.5)  # two alarms in four pairs
    assert metrics.false_alarms == (0.5, 0.5, 0.4)
    assert metrics.AP == pytest.approx(1)
    assert metrics.APfa == metrics.AP50fa == pytest.approx(76 / 101)  # three cups of four


def test_boxes_that_share_the_score_of_the_threshold_are_all_left_out(scored):
    forks = [box_of(image, FORK, 0.5) for image in range(4)]
    metrics = scored([*CUPS, box_of(0, FORK, 0.6), *forks], 0.5)
    assert metrics.false_alarms == (0.5, 0.25, 0.5)
    assert metrics.APfa == pytest.approx(51 / 101)  # the cup of score 0.5 is not above 0.5


def test_a_detector_that_never_raises_so_many_alarms_loses_nothing(scored):
    metrics = scored([*CUPS, box_of(0, FORK, 0.99), box_of(0, FORK, 0.98)], 0.5)
    assert metrics.false_alarms == (0.5, 0.5, -math.inf)
    assert metrics.APfa == metrics.AP
    written = metrics.to_json()
    assert written["false_alarm_threshold"] is None
    assert (written["false_alarm_rate"], written["APfa"]) == (0.5, metrics.AP)


def test_no_alarm_at_all_may_be_allowed(scored):
    metrics = scored([*CUPS, box_of(2, FORK, 0.8)], 0.0)
    assert metrics.false_alarms == (0, 0, 0.8)
    assert metrics.APfa == pytest.approx(26 / 101)


def test_without_verified_absent_names_nothing_is_defined(scored):
    metrics = scored(CUPS, 0.05, neg_category_ids=[])
    written = metrics.to_json()
    assert metrics.AP == pytest.approx(1)
    for name in ("APfa", "AP50fa", "false_alarm_rate", "false_alarm_threshold"):
        assert written[name] is None
    assert written["false_alarm_limit"] == 0.05


def test_wrong_boxes_of_a_present_name_and_boxes_of_unknown_names_are_no_false_alarms(scored):
    twice = [box_of(image, CUP, 0.95, place=60) for image in range(4)]
    moons = [box_of(image, MOON, 0.99) for image in range(4)]  # may be there, for all we know
    metrics = scored([*CUPS, *twice, *moons], 0.0)
    assert metrics.false_alarms == (0, 0, -math.inf)


def test_a_name_that_is_listed_as_absent_where_it_has_a_box_is_present(scored):
    metrics = scored([*CUPS, box_of(0, FORK, 0.2)], 0.25, neg_category_ids=[CUP, FORK, FORK])
    assert metrics.false_alarms == (0.25, 0.25, -math.inf)  # four pairs, not eight


def test_in_a_coco_file_every_name_without_a_box_is_absent(scored):
    found = [*CUPS, box_of(0, FORK, 0.8), box_of(1, MOON, 0.6), box_of(1, CUP, 0.99, place=60)]
    metrics = scored(found, 0.125, neg_category_ids=None)  # eight pairs: forks and moons
    assert metrics.false_alarms == (0.125, 0.125, 0.6)


def test_a_limit_that_is_a_whole_count_of_pairs_is_reached_in_spite_of_rounding(tmp_path):
    """0.29 * 100 is 28.999999999999996 in floats, but 29 / 100 is 0.29."""
    content = {
        "images": [{"id": image} for image in range(50)],
        "categories": [{"id": each, "name": str(each)} for each in (CUP, FORK, MOON)],
        "annotations": [
            {"id": image + 1, "image_id": image, "category_id": CUP, "bbox": [0, 0, 50, 50]}
            for image in range(50)
        ],
    }
    alarms = [box_of(image, FORK, 0.9 - image / 100) for image in range(40)]
    path = tmp_path / "many.json"
    path.write_text(json.dumps(content))
    metrics = evaluate(path, alarms, protocol="standard", false_alarms=0.29)
    assert metrics.false_alarms.rate == 0.29
