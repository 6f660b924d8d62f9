"""AP of named groups of categories beside lvis and pycocotools, which know no groups."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_lvis_evaluation import RELAXED, figures_of_lvis, lvis, scenes

from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.lvis import evaluate


def some_groups(content, seed):
    """Groups of the categories of a file, by id; they may overlap."""
    random = np.random.default_rng(seed)
    ids = [each["id"] for each in content["categories"]]
    sizes = random.integers(1, len(ids) + 1, 3).tolist()
    return {
        name: random.choice(ids, size, replace=False).tolist()
        for name, size in zip(("all_of-it", "b", "novel"), sizes, strict=True)
    }


def mean(values):
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def ap50_of_lvis(path, detections):
    """AP at an IoU of 0.5 by category id, from the precision that lvis leaves."""
    evaluation = lvis.LVISEval(str(path), detections, "bbox")
    evaluation.run()
    precision = evaluation.eval["precision"][0, :, :, 0]
    ids = evaluation.params.cat_ids
    return {
        each: precision[:, k].mean() if precision[0, k] > -1 else math.nan
        for k, each in enumerate(ids)
    }


@settings(max_examples=25, **RELAXED)
@given(scene=scenes(), seed=st.integers(0, 2**32 - 1))
def test_a_groups_ap_is_the_mean_of_the_aps_that_lvis_gives_its_categories(tmp_path, scene, seed):
    content, detections, _ = scene
    assume(detections)
    content["category_groups"] = some_groups(content, seed)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    metrics = evaluate(path, detections, protocol="standard")
    by_name, by_id = figures_of_lvis(path, detections), ap50_of_lvis(path, detections)
    assert len(metrics.of_groups) == 6
    for name, ids in content["category_groups"].items():
        expected = mean(by_name[f"name {each}"] for each in ids)
        assert metrics.of_groups[f"AP_{name}"] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        expected = mean(by_id[each] for each in ids)
        assert metrics.of_groups[f"AP50_{name}"] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_novel_base_and_all_of_a_coco_file_are_those_of_pycocotools(tmp_path):
    """The three figures of open-vocabulary COCO: AP50 over the names of each part."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(0)
    split = {"base": [3, 4, 8, 9], "novel": [2, 11]}
    ids = sorted([*split["base"], *split["novel"]])
    boxes = [
        {"id": n, "image_id": n % 30, "category_id": int(random.choice(ids)), "iscrowd": 0}
        | {"bbox": [*random.integers(0, 99, 2).tolist(), *random.integers(20, 99, 2).tolist()]}
        for n in range(1, 200)
    ]
    boxes = [box | {"area": box["bbox"][2] * box["bbox"][3]} for box in boxes]
    content = {
        "images": [{"id": n} for n in range(30)],
        "categories": [{"id": each, "name": str(each)} for each in ids],
        "annotations": boxes,
    }
    path, side = tmp_path / "annotations.json", tmp_path / "splits.json"
    path.write_text(json.dumps(content))
    side.write_text(json.dumps({name: {"ids": own} for name, own in split.items()}))
    found = [
        {key: box[key] for key in ("image_id", "category_id")}
        | {"bbox": (np.array(box["bbox"]) + random.normal(0, 8, 4)).clip(1).tolist()}
        | {"score": float(random.random())}
        for box in boxes * 2
    ]
    truth = COCO(str(path))
    results, expected = truth.loadRes([dict(each) for each in found]), {}
    for name, own in {**split, "all": ids}.items():
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.catIds = own
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        expected[name] = evaluation.stats[1]
    metrics = evaluate(GroundTruth.of(path, side), found, protocol="standard")
    assert 0.1 < expected["novel"] < 0.9
    assert metrics.of_groups["AP50_novel"] == pytest.approx(expected["novel"], abs=1e-9)
    assert metrics.of_groups["AP50_base"] == pytest.approx(expected["base"], abs=1e-9)
    assert metrics.AP50 == pytest.approx(expected["all"], abs=1e-9)
