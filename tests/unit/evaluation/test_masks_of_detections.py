"""Masks of detections: counted while a validation runs, and read from results files."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from gridclip.data.annotations.reader import read_annotations
from gridclip.evaluation.command import evaluate_command
from gridclip.evaluation.detections import read_detections
from gridclip.evaluation.lvis import evaluate
from gridclip.evaluation.metric import LVISAveragePrecision
from gridclip.io.errors import InputError
from gridclip.ops.rle import encode, grids
from gridclip.structures import Detections, Record

SIZE = (90, 120)
BOXES = torch.tensor([[10.0, 10, 60, 50], [50, 20, 110, 85]])


def shapes():
    """An L and an ellipse, each as large as its box."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    corner = (x > 10) & (x < 60) & (y > 10) & (y < 50) & ((x < 30) | (y > 35))
    round_one = ((x - 80) / 30) ** 2 + ((y - 52.5) / 32.5) ** 2 < 1
    return [corner, round_one]


@pytest.fixture
def annotations(tmp_path):
    """Two images with the same objects, in LVIS form."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    boxes = [
        {"id": 2 * image + row, "image_id": image, "category_id": (8, 3)[row]}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(pixels.sum())}
        | {"segmentation": coco_code(pixels)}
        for image in (1, 2)
        for row, (pixels, (x1, y1, x2, y2)) in enumerate(zip(shapes(), BOXES.tolist(), strict=True))
    ]
    content = {
        "images": [
            lists | {"id": n, "height": SIZE[0], "width": SIZE[1], "file_name": f"{n}.jpg"}
            for n in (1, 2)
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 8, "name": "fork"}],
        "annotations": boxes,
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    return path


def coco_code(pixels):
    found = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": [*SIZE], "counts": found["counts"].decode()}


def found(masks):
    """Perfect boxes with these masks."""
    return Detections(BOXES, torch.tensor([0.9, 0.8]), torch.tensor([1, 0]), masks)


def counted(annotations, masks):
    table = read_annotations(annotations, rules="validation", masks=True)
    metric = LVISAveragePrecision(table, masks=True)
    for image in (1, 2):
        record = Record(image, "", *SIZE)
        metric.update([record], [found(masks)], torch.tensor([3, 8]))
    metric.update([Record(1, "", *SIZE)], [found(masks)], torch.tensor([3, 8]))  # seen twice
    return metric


def true_grids(side=56):
    codes = [encode(pixels, (0, 0), SIZE) for pixels in shapes()]
    return torch.from_numpy(grids(codes, BOXES.numpy(), SIZE, side)).float()


def test_true_masks_on_grids_score_as_their_pixels(annotations):
    metrics = counted(annotations, true_grids()).compute()
    assert metrics.AP == 1
    assert metrics.of_masks["segm_AP"] > 0.95
    assert metrics.scalars("val/")["val/segm_AP"] == metrics.of_masks["segm_AP"]
    whole = counted(annotations, torch.ones(2, 28, 28)).compute()  # an L fills 0.65 of its box
    assert whole.AP == 1
    assert 0.1 < whole.of_masks["segm_AP"] < 0.6
    assert whole.to_json()["segm_AP50"] == whole.of_masks["segm_AP50"]


def test_results_say_what_was_counted(annotations, tmp_path):
    metric = counted(annotations, true_grids(9))
    metrics = metric.compute()
    results = tmp_path / "detections.json"
    results.write_text(json.dumps(metric.results()))
    assert len(metric.results()) == 4
    pixels = coco.decode(metric.results()[0]["segmentation"])
    assert (pixels & shapes()[0]).sum() / (pixels | shapes()[0]).sum() > 0.8
    assert evaluate(annotations, results, protocol="standard", masks=True) == metrics
    assert evaluate(annotations, results, protocol="standard").of_masks == {}


def test_without_annotated_masks_those_of_detections_are_written_and_not_scored(annotations):
    metric = LVISAveragePrecision(annotations, masks=True)
    metric.update([Record(1, "", *SIZE)], [found(true_grids())], torch.tensor([3, 8]))
    assert metric.compute().of_masks == {}
    assert metric.results()[1]["segmentation"]["size"] == [*SIZE]


def test_a_metric_that_is_begun_anew_has_forgotten_masks(annotations):
    metric = counted(annotations, true_grids())
    metric.reset()
    assert metric.results() == []


def test_masks_are_read_as_they_were_written(tmp_path):
    chance = np.random.default_rng(0)
    rows = [
        {"image_id": n, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
        | {"segmentation": coco_code(chance.random(SIZE) < 0.4)}
        for n in range(5)
    ]
    file = tmp_path / "found.json"
    file.write_text(json.dumps(rows))
    unusual = json.dumps(rows).replace('"image_id": 0', '"image_id": 0.0')
    for text in (json.dumps(rows), unusual):
        file.write_text(text)
        assert read_detections(file, masks=True).to_json() == rows
        assert read_detections(file).masks is None
    assert read_detections([], masks=True).masks.codes.shape == (0,)
    file.write_text("[]")
    assert len(read_detections(file, masks=True).masks.codes) == 0


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        (None, "is not a code"),
        ([[1, 2, 3, 4, 5, 6]], "is not a code"),
        ({"size": [*SIZE], "counts": "zzz"}, "cut short"),
    ],
)
def test_a_detection_without_a_mask_is_refused_by_its_row(
    annotations, tmp_path, segmentation, told
):
    rows = [
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}
        | {"segmentation": coco_code(shapes()[0])}
        for _ in range(3)
    ]
    rows[1]["segmentation"] = segmentation
    file = tmp_path / "found.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(InputError) as refused:
        evaluate_command(annotations=annotations, detections=file, masks=True)
    assert str(file) in str(refused.value)
    assert "detections[1].segmentation" in str(refused.value)
    assert told in str(refused.value)


def test_a_mask_of_another_size_than_its_image_is_refused(annotations, tmp_path):
    small = coco.encode(np.zeros((45, 60), np.uint8, order="F"))["counts"].decode()
    row = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}
    file = tmp_path / "found.json"
    file.write_text(json.dumps([row | {"segmentation": {"size": [45, 60], "counts": small}}]))
    with pytest.raises(InputError, match="another size than its image") as refused:
        evaluate_command(annotations=annotations, detections=file, masks=True)
    assert str(file) in str(refused.value)


def test_the_command_shows_and_writes_figures_of_masks(annotations, tmp_path, capsys):
    results, output = tmp_path / "found.json", tmp_path / "figures.json"
    results.write_text(json.dumps(counted(annotations, true_grids()).results()))
    evaluate_command(annotations=annotations, detections=results, masks=True, output=output)
    assert "overlap of masks" in capsys.readouterr().out
    assert json.loads(output.read_text())["segm_AP75"] == 1
