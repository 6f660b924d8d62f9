"""Json files: what is read piece by piece is what the whole would be."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridclip.errors import InputError
from gridclip.evaluation import detections
from gridclip.evaluation.detections import read_detections
from gridclip.json_files import pieces_of_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: "segmentation" not in json.dumps(value))


@given(st.lists(VALUES, min_size=1, max_size=9), st.integers(1, 10), st.sampled_from([None, 1]))
def test_pieces_together_are_what_json_reads(tmp_path_factory, rows, size, indent):
    file = tmp_path_factory.mktemp("list") / "list.json"
    file.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    pieces = list(pieces_of_json(file, size))
    assert [row for piece in pieces for row in piece] == json.loads(file.read_bytes())
    assert all(len(piece) == size for piece in pieces[:-1])
    assert len(pieces[-1]) < size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "[1",
        "[1,",
        "[1,]",
        "[1 2]",
        "[1] 2",
        "1]",
        "[1]]",
        "[,1]",
        "\u00a0[1]",
        "[{]",
    ],
)
def test_what_is_no_whole_list_of_objects_has_no_pieces(tmp_path, text):
    file = tmp_path / "list.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError):  # noqa: PT011 - of json's and ours, no matter which
        list(pieces_of_json(file, 1))


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


def test_an_empty_list_of_detections_is_read(tmp_path):
    file = tmp_path / "detections.json"
    file.write_text("[]", encoding="utf-8")
    assert read_detections(file).boxes.shape == (0, 4)


def test_pieces_need_less_memory_than_the_whole(tmp_path):
    file = tmp_path / "list.json"
    row = {"image_id": 1, "bbox": [1.5, 2.5, 3.5, 4.5]}
    file.write_text(json.dumps([row] * 5000), encoding="utf-8")
    tracemalloc.start()
    json.loads(file.read_bytes())
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for _ in pieces_of_json(file, 100):
        pass
    assert tracemalloc.get_traced_memory()[1] < whole / 2
    tracemalloc.stop()
