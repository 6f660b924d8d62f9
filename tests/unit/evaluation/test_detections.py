"""Detections in a file, read piece by piece, are what json reads whole."""

import json
import tracemalloc

import numpy as np
import pytest

from gridclip.evaluation import detections
from gridclip.evaluation.detections import read_detections
from gridclip.io.errors import InputError


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_every_value_is_the_one_that_json_reads(tmp_path, monkeypatch, count):
    monkeypatch.setattr(detections, "_PIECE", 2)
    chance = np.random.default_rng(count)
    rows = [
        {"image_id": 2**60 + n, "category_id": -n, "score": chance.random(), "naïve": [{}]}
        | {"bbox": (chance.standard_normal(4) * 10.0 ** chance.integers(-9, 9)).tolist()}
        for n in range(count)
    ]
    file = tmp_path / "detections.json"
    file.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    truth = json.loads(file.read_bytes())
    keys = ("image_id", "category_id", "bbox", "score")
    for key, column in zip(keys, read_detections(file)[:4], strict=True):
        assert column.tolist() == [row[key] for row in truth]


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "[{}", "[{},", "[{},]", "[{} {}]", "[{}] 2", "[{}]]", "[,{}]", "[{]"]
)
def test_what_is_no_whole_list_of_objects_is_refused(tmp_path, text):
    file = tmp_path / "detections.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"detections\.json"):
        read_detections(file)


@pytest.fixture
def five(tmp_path, monkeypatch):
    monkeypatch.setattr(detections, "_PIECE", 2)
    rows = [
        {"image_id": n, "category_id": n % 3, "bbox": [n, 2, 3.5, 4], "score": n / 7}
        for n in range(5)
    ]

    def write(**changed):
        rows[3] |= changed
        file = tmp_path / "detections.json"
        file.write_text(json.dumps(rows), encoding="utf-8")
        return file, rows

    return write


def test_detections_read_in_pieces_are_those_of_the_content(five):
    file, rows = five(segmentation={"counts": "x", "size": [4, 4]})
    assert read_detections(file).to_json() == read_detections(rows).to_json()
    assert read_detections(file).boxes.shape == (5, 4)


def test_a_fault_in_a_later_piece_is_counted_in_the_whole_list(five):
    file, _ = five(score="high")
    with pytest.raises(InputError, match=r"1 of 5 detections .*'high'") as caught:
        read_detections(file)
    assert "detections[3].score" in str(caught.value)


@pytest.mark.parametrize(
    "value", [10**30, "1", True, None, 1.5], ids=["many digits", "text", "true", "null", "a half"]
)
def test_an_unusual_id_has_the_error_that_the_content_has(five, value):
    file, rows = five(image_id=value)
    with pytest.raises(InputError) as of_file:
        read_detections(file)
    with pytest.raises(InputError) as of_content:
        read_detections(rows)
    assert str(of_file.value) == f"{file}: {of_content.value}"


def test_ids_written_as_floats_and_whole_scores_are_read_in_pieces_too(five):
    file, rows = five(image_id=3.0, score=1)
    assert read_detections(file).to_json() == read_detections(rows).to_json()


@pytest.mark.parametrize("key", ["score", "bbox"])
def test_whole_numbers_beyond_64_bits_are_refused_in_boxes_and_scores(five, key):
    file, _ = five(**{key: 10**30 if key == "score" else [1, 2, 10**30, 4]})
    with pytest.raises(InputError, match=rf"detections\[3\]\.{key}"):
        read_detections(file)


def test_pieces_need_less_memory_than_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(detections, "_PIECE", 100)
    file = tmp_path / "detections.json"
    row = {"image_id": 1, "category_id": 1, "bbox": [1.5, 2.5, 3.5, 4.5], "score": 0.5}
    file.write_text(json.dumps([row] * 5000), encoding="utf-8")
    tracemalloc.start()
    json.loads(file.read_bytes())
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    read_detections(file)
    assert tracemalloc.get_traced_memory()[1] < whole / 2
    tracemalloc.stop()
