import json
import math
from functools import partial

import pytest
import torch
from torch.utils.data import DistributedSampler
from two_ranks import on_two_ranks

from gridclip.evaluation.lvis import evaluate
from gridclip.evaluation.metric import LVISAveragePrecision
from gridclip.io.errors import InputError
from gridclip.structures import Detections, Record

IMAGES = [40, 10, 30, 20, 50]
CATEGORY_IDS = torch.tensor([8, 3])  # vocabulary row 0 is the category with id 8
NUM_FOUND = 30


def record(image_id):
    return Record(image_id=image_id, path="", height=100, width=100)


def found_in(image_id):
    """Always the same boxes in the same image, of which some are right."""
    generator = torch.Generator().manual_seed(image_id)
    corners = torch.rand(NUM_FOUND, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 30], dim=1)
    boxes[:4] = torch.tensor([5.0, 5, 35, 35])
    scores = torch.rand(NUM_FOUND, generator=generator)
    return Detections(boxes, scores, torch.arange(NUM_FOUND) % 2)


@pytest.fixture
def annotations(tmp_path):
    lists = {"neg_category_ids": [3, 8], "not_exhaustive_category_ids": []}
    content = {
        "images": [lists | {"id": image} for image in IMAGES],
        "categories": [
            {"id": 3, "name": "cup", "frequency": "r"},
            {"id": 8, "name": "fork", "frequency": "f"},
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "area": 900}
            | {"bbox": [5, 5, 30, 30]}
            for n, (image, category) in enumerate(
                ((image, category) for image in IMAGES for category in (3, 8)), start=1
            )
            if image != 30 or category != 3
        ],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    return path


def as_json(image_ids):
    """What `found_in` finds, written by hand in the form of LVIS results."""
    return [
        {
            "image_id": image,
            "category_id": (8, 3)[label],
            "bbox": [x1, y1, float(x2) - x1, float(y2) - y1],
            "score": score,
        }
        for image in image_ids
        for (x1, y1, x2, y2), score, label in zip(
            *(column.tolist() for column in found_in(image)[:3]), strict=True
        )
    ]


def see(metric, image_ids):
    for image in image_ids:
        metric.update([record(image)], [found_in(image)], CATEGORY_IDS)


@pytest.mark.parametrize("protocol", ["standard", "fixed"])
def test_the_metric_gives_the_figures_of_the_same_detections_in_a_file(annotations, protocol):
    metric = LVISAveragePrecision(annotations, protocol)
    metric.update([record(40), record(10)], [found_in(40), found_in(10)], CATEGORY_IDS)
    see(metric, IMAGES[2:])
    expected = evaluate(annotations, as_json(IMAGES), protocol=protocol)
    assert 0.01 < expected.AP < 0.99
    assert metric.compute() == expected


def test_the_metric_allows_as_many_false_alarms_as_it_is_told(annotations):
    content = json.loads(annotations.read_text())
    content["annotations"] = [box for box in content["annotations"] if box["category_id"] == 8]
    annotations.write_text(json.dumps(content))
    few, many = (LVISAveragePrecision(annotations, false_alarms=limit) for limit in (0.2, 2.0))
    for metric in (few, many):
        see(metric, IMAGES)
    assert few.compute().false_alarms.rate == 0.2
    assert few.compute().APfa < many.compute().APfa
    expected = evaluate(annotations, as_json(IMAGES), protocol="standard", false_alarms=2.0)
    assert many.compute() == expected


def test_images_that_were_not_seen_do_not_count(annotations):
    metric = LVISAveragePrecision(annotations)
    see(metric, IMAGES[:2])
    metrics = metric.compute()
    assert metrics == evaluate(
        annotations, as_json(IMAGES[:2]), protocol="standard", image_ids=IMAGES[:2]
    )
    assert metrics.num_images == 2


def test_an_image_without_detections_counts_as_seen(annotations):
    metric = LVISAveragePrecision(annotations)
    see(metric, [40])
    alone = metric.compute().AP
    nothing = Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.long))
    metric.update([record(10)], [nothing], CATEGORY_IDS)
    both = metric.compute().AP
    assert both < alone


def test_reset_forgets_all_images(annotations):
    metric = LVISAveragePrecision(annotations)
    see(metric, IMAGES)
    metric.reset()
    see(metric, IMAGES[:1])
    assert metric.compute().num_images == 1


def test_the_standard_protocol_keeps_the_300_best_of_an_image_and_no_more(annotations):
    found = Detections(
        torch.tensor([[0.0, 0, 9, 9]]).repeat(500, 1),
        torch.linspace(0.1, 0.9, 500),  # worst first
        torch.zeros(500, dtype=torch.long),
    )
    standard, fixed = LVISAveragePrecision(annotations), LVISAveragePrecision(annotations, "fixed")
    for metric in (standard, fixed):
        metric.update([record(40)], [found], CATEGORY_IDS)
    assert min(each["score"] for each in standard.results()) == found.scores[200]
    assert (len(standard.results()), len(fixed.results())) == (300, 500)


def test_results_in_a_file_evaluate_to_the_same_figures(annotations, tmp_path):
    metric = LVISAveragePrecision(annotations)
    see(metric, IMAGES)
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(metric.results()))
    assert evaluate(annotations, path, protocol="standard") == metric.compute()


def test_a_score_that_is_not_finite_is_refused(annotations):
    metric = LVISAveragePrecision(annotations)
    found = found_in(40)
    metric.update([record(40)], [found._replace(scores=found.scores * math.nan)], CATEGORY_IDS)
    with pytest.raises(InputError, match=r"30 of 30 .*score nan.*\n.*diverged"):
        metric.compute()


def test_rows_of_the_vocabulary_given_as_ids_are_refused(annotations):
    metric = LVISAveragePrecision(annotations)
    metric.update([record(40)], [found_in(40)], torch.arange(2))
    with pytest.raises(InputError, match=r"30 of 30 .* category_id 0.*\n.*from 0"):
        metric.compute()


def validate_as(rank, annotations):
    """One of two processes: three validations, each with its own way to share out the images."""
    # Five images for two ranks: the sampler gives rank 1 an image of rank 0 once more.
    padded = [IMAGES[i] for i in DistributedSampler(IMAGES, 2, rank, shuffle=False)]
    shares = {
        "padded": padded,
        "uneven": (IMAGES[:4], IMAGES[4:])[rank],
        "one rank empty": (IMAGES, [])[rank],
        "another rank empty": ([], IMAGES)[rank],
        "nothing at all": [],
    }
    metric, said = LVISAveragePrecision(annotations), {}
    for name, share in shares.items():
        see(metric, share)
        said[name] = [len(share), metric.compute().to_json(), metric.results()]
        metric.reset()
    return json.dumps(said)


def test_two_processes_give_the_figures_of_one(annotations, tmp_path):
    ranks = on_two_ranks(partial(validate_as, annotations=annotations), tmp_path)
    first, second = map(json.loads, ranks)
    assert first["padded"][0] + second["padded"][0] == 6
    expected = evaluate(annotations, as_json(IMAGES), protocol="standard").to_json()
    for said in (first, second):
        assert said.pop("nothing at all")[1]["num_images"] == 0
        for name, (_, figures, results) in said.items():
            assert figures == expected, name
            assert len(results) == len(IMAGES) * NUM_FOUND, name
            assert {each["image_id"] for each in results} == set(IMAGES), name
