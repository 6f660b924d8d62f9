"""Areas of 0 and ids of any size, beside pycocotools, lvis, and the same file with small ids."""

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest

from gridclip.data.annotations.reader import read_annotations
from gridclip.evaluation.lvis import evaluate
from gridclip.io.run_metrics import LVIS_METRICS

pytestmark = pytest.mark.field

COCO = {
    "images": [{"id": n, "width": 99, "height": 99, "file_name": f"{n}.jpg"} for n in (1, 2)],
    "categories": [{"id": n, "name": f"name {n}"} for n in (1, 2, 3)],
    "annotations": [
        {"id": n, "image_id": 1 + n % 2, "category_id": 1 + n % 3, "bbox": [8 * n, 5, 40, 30]}
        | {"area": 900, "iscrowd": 0}
        for n in range(1, 7)
    ],
}
FOUND = [
    {"image_id": box["image_id"], "category_id": box["category_id"], "bbox": box["bbox"]}
    | {"score": 0.9 - 0.1 * n}
    for n, box in enumerate(COCO["annotations"][:4])
] + [{"image_id": 1, "category_id": 3, "bbox": [50, 50, 9, 9], "score": 0.95}]


def lvis_form(document, **lists):
    document = copy.deepcopy(document)
    for image in document["images"]:
        image |= {"neg_category_ids": [1, 2, 3], "not_exhaustive_category_ids": []} | lists
    for category in document["categories"]:
        category["frequency"] = "f"
    return document


def with_areas(document, *areas):
    """A copy whose first boxes have these areas; of ..., none."""
    document = copy.deepcopy(document)
    for box, area in zip(document["annotations"], areas, strict=False):
        box["area"] = area
        if area is ...:
            del box["area"]
    return document


def figures(tmp_path, document, found=FOUND, **given):
    file = tmp_path / "file.json"
    file.write_text(json.dumps(document))
    return evaluate(file, found, protocol="standard", **given)


def figures_of_coco(document):
    from pycocotools import coco as package
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = package.COCO()
        coco.dataset = copy.deepcopy(document)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(FOUND)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


@pytest.mark.parametrize("areas", [(0,), (0, 0, 0), (0,) * 6])
def test_boxes_of_area_0_count_in_coco_form_as_in_pycocotools(tmp_path, areas, caplog):
    document = with_areas(COCO, *areas)
    ours = figures(tmp_path, document)
    assert [ours.AP, ours.AP50, ours.AP75] == pytest.approx(figures_of_coco(document), abs=1e-9)
    assert f"{len(areas)} annotations have the area 0: the areas of the boxes" in caplog.text


def test_the_area_of_a_box_is_its_own_where_the_file_says_none(tmp_path, caplog):
    for form in (COCO, lvis_form(COCO)):
        said = figures(tmp_path, with_areas(form, 1200, 1200, 1200))
        assert figures(tmp_path, with_areas(form, ..., None, ...)) == said
        assert said.AP > 0
    assert not caplog.text


def test_a_box_of_no_size_is_missed_in_coco_form_as_in_pycocotools(tmp_path):
    document = with_areas(COCO, 0, ...)
    for box in document["annotations"][:2]:
        box["bbox"] = [5, 5, 0, 20]
    theirs = figures_of_coco(with_areas(document, 0, 0))  # which needs an area
    ours = figures(tmp_path, document)
    assert [ours.AP, ours.AP50, ours.AP75] == pytest.approx(theirs, abs=1e-9)


def test_boxes_of_area_0_are_left_out_in_lvis_form_as_in_lvis_but_not_silently(tmp_path, caplog):
    document = with_areas(lvis_form(COCO), 0, 0.0)
    ours = figures(tmp_path, document)
    theirs = figures(tmp_path, document, backend="lvis").scalars()
    assert ours.scalars() == pytest.approx(theirs, nan_ok=True)
    without = copy.deepcopy(document)
    del without["annotations"][:2]
    assert ours == figures(tmp_path, without)
    (said, again) = (each.getMessage() for each in caplog.records)
    assert "2 annotations have the area 0: AP leaves them out, as lvis does" in said
    assert said == again  # also where the index had been made before


def test_training_counts_every_box_whatever_its_area(tmp_path, caplog):
    for form in (COCO, lvis_form(COCO)):
        file = tmp_path / "train.json"
        file.write_text(json.dumps(with_areas(form, 0, ..., None)))
        assert len(read_annotations(file).boxes.values) == 6
    assert not caplog.text


SHIFTS = [-1, -7, 2**31, 2**53, 2**62]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("backend", ["hotcoco", "lvis"])
@pytest.mark.parametrize("form", [COCO, lvis_form(COCO, neg_category_ids=[3])])
def test_ids_of_any_size_give_the_figures_of_small_ids(tmp_path, form, backend, shift):
    def moved(value, key=""):
        if isinstance(value, dict):
            return {name: moved(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [moved(each, key) for each in value]
        return value + shift if key == "id" or key.endswith(("_id", "_ids")) else value

    expected = figures(tmp_path, form, backend=backend)
    found = figures(tmp_path, moved(form), moved(FOUND), backend=backend)
    assert found == expected._replace(per_category=found.per_category)
    assert [*found.per_category.values()] == pytest.approx([*expected.per_category.values()])
    assert 0 < found.AP < 1
    assert all(math.isfinite(getattr(found, name)) for name in LVIS_METRICS[:3])


def test_large_ids_of_detections_survive_floats_beside_them(tmp_path):
    """As pandas leaves them: one 1.0 would make floats of a whole numpy column."""
    large = 2**53 + 1
    document = copy.deepcopy(COCO)
    for row in (*document["images"], *document["annotations"]):
        key = "id" if "width" in row else "image_id"
        row[key] = large if row[key] == 1 else row[key]
    found = [
        row
        | {"image_id": large if row["image_id"] == 1 else 2.0}
        | {"category_id": np.float64(row["category_id"])}
        for row in FOUND
    ]
    ours = figures(tmp_path, document, found)
    assert ours.AP == pytest.approx(figures(tmp_path, COCO).AP)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found))
    assert figures(tmp_path, document, file) == ours
