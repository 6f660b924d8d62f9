import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gridclip.sweeps.running.claims import (
    first_attempt,
    judge,
    next_attempt,
    this_runner,
    to_run_again,
)
from gridclip.sweeps.running.process import Exit
from gridclip.sweeps.spec.sweep_file import Metric
from gridclip.sweeps.storage.protocol import KnownTrials
from gridclip.sweeps.storage.trial import Trial

METRIC = Metric(name="val/APr", goal="maximize")
ME, OTHER = (replace(this_runner(), id=name) for name in ("me", "other"))


@pytest.fixture
def trial(tmp_path) -> Trial:
    (tmp_path / "trials" / "001").mkdir(parents=True)
    return replace(first_attempt(1, {"x": 1}, ME, tmp_path), started=datetime.now(UTC))


def leave(trial: Trial, **figures) -> None:
    (trial.folder / "metrics.json").write_text(json.dumps(figures))


@pytest.mark.parametrize(
    ("ended", "state", "reason", "kills"),
    [
        (Exit(0, ""), "finished", "", 0),
        (Exit(1, ""), "failed", "exit code 1", 0),
        (Exit(-6, ""), "failed", "killed by SIGABRT", 0),
        (Exit(-11, ""), "failed", "killed by SIGSEGV", 0),
        (Exit(-35, ""), "failed", "killed by signal 35", 0),
        (Exit(None, "can't start: x"), "failed", "can't start: x", 0),
        (Exit(-9, ""), "interrupted", "killed by SIGKILL, out of memory?", 1),
        (Exit(-15, ""), "interrupted", "killed by SIGTERM", 1),
        (Exit(143, ""), "interrupted", "killed by SIGTERM", 1),
        (Exit(137, ""), "interrupted", "killed by SIGKILL, out of memory?", 1),
        (Exit(-12, ""), "interrupted", "killed by SIGUSR2", 1),
        (Exit(-9, "the runner is gone"), "interrupted", "the runner is gone", 0),
        (Exit(143, "asked to end"), "interrupted", "asked to end", 0),
        (None, "interrupted", "its guard was killed", 1),
    ],
)
def test_an_end_is_judged_by_code_and_cause(trial, ended, state, reason, kills):
    leave(trial, APr=0.5)
    seen = judge(trial, ended, METRIC, attempts=3)
    assert (seen.state, seen.reason, seen.kills) == (state, reason, kills)


@pytest.mark.field
@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('{"APr": 0.5, "AP": NaN}', ""),
        ('{"val/APr": 0, "APr": null}', ""),
        ('{"AP": 0.5, "APr": null}', "APr is no number: null, undefined"),
        ('{"AP": 0.5, "APr": NaN}', "APr is no number: NaN"),
        ('{"AP": 0.5, "val/APr": -Infinity}', "val/APr is no number: -Infinity"),
        ('{"AP": 0.5, "APr": "0.2"}', 'APr is no number: "0.2"'),
        ('{"AP": 0.5, "APr": true}', "APr is no number: true"),
        ('{"AP": 0.5, "APr": [0.5]}', "APr is no number: [0.5]"),
        (f'{{"AP": 0.5, "APr": 1{"0" * 400}}}', f"APr is no number: 1{'0' * 39}"),
        ('{"AP": 0.5, "AP50": 1}', "there is no metric val/APr; metrics.json has AP, AP50"),
        ('{"AP": null}', "there is no metric val/APr; metrics.json has no number"),
        ("{}", "there is no metric val/APr; metrics.json has no number"),
        ("[0.5]", "no complete metrics.json"),
        ('{"APr": 0.5', "no complete metrics.json"),
        ("", "no complete metrics.json"),
    ],
)
def test_a_trial_without_a_number_for_the_metric_has_failed(trial, written, reason):
    (trial.folder / "metrics.json").write_text(written)
    seen = judge(trial, Exit(0, ""), METRIC, attempts=3)
    assert seen.state == ("failed" if reason else "finished")
    assert seen.reason == (f"exit code 0, but {reason}" if reason else "")


@pytest.mark.parametrize(
    ("last", "state"), [("0.3", "finished"), ("NaN", "failed"), ("null", "failed")]
)
def test_a_metric_that_only_the_history_has_is_what_was_logged_last(trial, last, state):
    leave(trial, AP=0.5)
    rows = f'{{"step": 1, "loss": 0.2}}\n{{"step": 2, "loss": {last}}}\n{{"step": 3}}\n{{"st'
    (trial.folder / "history.jsonl").write_text(rows)
    assert judge(trial, Exit(0, ""), Metric(name="loss"), attempts=3).state == state


def test_without_a_metric_any_number_will_do(trial):
    assert judge(trial, Exit(0, ""), None, attempts=3).reason.endswith("no complete metrics.json")
    for figures, state in (({"x": None}, "failed"), ({"x": 1}, "finished")):
        leave(trial, **figures)
        assert judge(trial, Exit(0, ""), None, attempts=3).state == state


def test_a_trial_may_be_killed_so_often_and_no_oftener(trial):
    states = []
    for _ in range(3):
        trial = judge(trial, Exit(-9, ""), METRIC, attempts=3)
        states.append(trial.state)
        trial = replace(next_attempt(trial, ME), state="running")
    assert states == ["interrupted", "interrupted", "failed"]
    assert judge(trial, Exit(-9, ""), None, attempts=1).state == "failed"


@pytest.mark.parametrize(
    ("state", "runner", "again"),
    [
        ("running", OTHER, False),
        ("interrupted", OTHER, True),
        ("stopped", ME, True),
        ("finished", OTHER, False),
        ("failed", OTHER, False),
        ("pruned", OTHER, False),
        ("running", replace(OTHER, id="unknown"), True),
        ("running", ME, False),
    ],
)
def test_only_what_nobody_runs_is_run_again(trial, state, runner, again):
    state = KnownTrials([replace(trial, state=state, runner=runner.id)]).state((ME, OTHER))
    found = to_run_again(state, ME, gone=(), busy=(1,) if runner is ME and not again else ())
    assert (found is not None) is again


def test_the_trial_of_a_runner_that_is_gone_is_run_again(trial):
    state = KnownTrials([replace(trial, runner=OTHER.id)]).state((ME, OTHER))
    assert to_run_again(state, ME, gone={"other"}, busy=()) == state.trials[0]


def test_what_this_runner_has_in_hand_is_never_taken_again(trial):
    for runners, gone in (((ME, OTHER), {"me"}), ((OTHER,), set()), ((ME, OTHER), set())):
        for state in ("running", "interrupted"):
            known = KnownTrials([replace(trial, state=state, runner=ME.id)]).state(runners)
            assert to_run_again(known, ME, gone=gone | {ME.id}, busy=(1,)) is None


def test_a_claim_whose_answer_got_lost_is_taken_up(trial):
    state = KnownTrials([trial]).state((ME,))  # recorded as mine, but I know of no such trial
    assert to_run_again(state, ME, gone=(), busy=()) == trial


def test_another_attempt_has_the_same_point_and_a_run_of_its_own(trial):
    again = next_attempt(replace(trial, kills=2, reason="x", exit_code=-9), OTHER)
    assert (again.number, again.point, again.attempt, again.kills) == (1, {"x": 1}, 2, 2)
    assert (again.runner, again.state, again.reason, again.exit_code) == (
        "other",
        "running",
        "",
        None,
    )
    assert again.run_id != trial.run_id
    assert again.folder == trial.folder == Path(trial.folder)
