import pytest

from gridclip.evaluation.lvis import Metrics
from gridclip.io.run_metrics import LVIS_METRICS, MAIN_METRICS, is_precision, read_history


def test_a_broken_line_of_a_history_hides_no_other(tmp_path):
    lines = [b'{"step": 1, "val/AP": 0.1}', b'{"step": 2, "\xff', b'{"step": 3, "ok": true}', b"{"]
    (tmp_path / "history.jsonl").write_bytes(b"\n".join(lines))
    assert list(read_history(tmp_path)) == [{"step": 1, "val/AP": 0.1}, {"step": 3}]


def test_a_run_without_a_history_has_no_rows(tmp_path):
    assert read_history(tmp_path) == ()


def test_every_metric_is_one_that_evaluation_measures():
    assert {*MAIN_METRICS} < {*LVIS_METRICS} < {*Metrics._fields}


@pytest.mark.parametrize(("name", "expected"), [("val/APr", True), ("AP50", True), ("loss", False)])
def test_precisions_are_known_by_their_names(name, expected):
    assert is_precision(name) is expected
