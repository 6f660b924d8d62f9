import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from gridclip.sweeps.storage.trial import Trial


@pytest.fixture
def trial(tmp_path):
    return Trial(
        number=1,
        folder=tmp_path,
        point={"x": 1, "day": date(2026, 1, 2)},
        argv=("python", "--x=1"),
        run_id="abc",
        started=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_a_record_is_whole_json_and_leaves_no_other_file(trial, tmp_path):
    trial.save()
    record = json.loads((tmp_path / "trial.json").read_text())
    assert record["parameters"] == {"x": 1, "day": "2026-01-02"}
    assert (record["state"], record["ended"]) == ("running", None)
    assert [file.name for file in tmp_path.iterdir()] == ["trial.json"]


@pytest.mark.field
def test_a_record_stays_json_whatever_yaml_holds(trial, tmp_path):
    odd = {"clip": [math.inf, -math.inf, math.nan], "none": None, "名": {"深": [True, 1e-05]}}
    replace(trial, point=odd).save()
    text = (tmp_path / "trial.json").read_text()
    record = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not json"))
    texts = {"clip": ["inf", "-inf", "nan"]}
    assert record["parameters"] == odd | texts


def test_a_history_line_half_written_is_left_out(trial, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"step": 1, "val/AP": 0.1}\n{"step": 2, "val/')
    assert list(trial.history()) == [{"step": 1, "val/AP": 0.1}]
    assert trial.latest() == {"step": 1, "AP": 0.1}


def test_only_finite_numbers_count_as_figures(trial, tmp_path):
    (tmp_path / "metrics.json").write_text(
        '{"AP": 0.1, "APr": null, "APc": NaN, "protocol": "fixed", "ok": true, "more": {"a": 1}}'
    )
    assert trial.metrics() == {"AP": 0.1}


@pytest.mark.parametrize("content", ["", "{", "[1]", '"AP"'])
def test_a_broken_figures_file_has_no_figures(trial, tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    assert trial.metrics() == {}
    assert trial.value("val/AP") is None


def test_a_value_comes_from_the_figures_before_the_history(trial, tmp_path):
    (tmp_path / "history.jsonl").write_text(
        '{"val/APr": 0.1, "train/loss": 3}\n{"val/APr": 0.2, "train/loss": 2}\n{"val/AP": 0.5}\n'
    )
    assert trial.value("val/APr") == 0.2
    (tmp_path / "metrics.json").write_text('{"APr": 0.4, "AP": 0.5}')
    assert trial.value("val/APr") == trial.value("APr") == 0.4
    assert trial.value("train/loss") == 2
    assert trial.value("val/APf") is None


def test_the_tail_of_a_log_shows_a_progress_bar_once(trial, tmp_path):
    (tmp_path / "log.txt").write_bytes(b"first\nstep 1\rstep 2\rstep 3\n\n" + b"\xff odd\r\nlast\n")
    assert trial.log_tail(3).splitlines() == ["step 3", "\ufffd odd", "last"]
    assert trial.log_tail(1) == "last"


def test_a_log_is_shown_as_the_terminal_had_it(trial, tmp_path):
    file = tmp_path / "log.txt"
    file.write_bytes(b"first\n\n0%\r50%\r100%\n\x1b[1;31merror\x1b[0m: no memory\r\n")
    assert trial.log_tail(3) == "first\n100%\nerror: no memory"
    assert trial.log_tail(2) == "100%\nerror: no memory"
    assert replace(trial, folder=tmp_path / "absent").log_tail() == ""


def test_no_command_to_a_terminal_leaves_a_log(trial, tmp_path):
    codes = (
        "\x1b]0;title\x07",
        "\x1b]52;c;aGk=\x1b\\",
        "\x1b[2J",
        "\x9b2J",
        "\x07",
        "\x1bc",
        "\u202e",
    )
    (tmp_path / "log.txt").write_bytes("".join(f"{code}kept\n" for code in codes).encode())
    shown = replace(trial, folder=tmp_path).log_tail(20)
    assert shown.isprintable() or set(shown) - set("\n") <= set(filter(str.isprintable, shown))
    assert [line[-4:] for line in shown.splitlines()] == ["kept"] * len(codes)
    assert "title" not in shown
    assert "aGk=" not in shown
