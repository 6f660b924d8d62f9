import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from gridclip.sweeps.results.progress import Progress, duration, steps
from gridclip.sweeps.results.table import best_trial, figure, measured_names, trial_table
from gridclip.sweeps.spec.parameters import short_names
from gridclip.sweeps.spec.sweep_file import Metric, read_sweep
from gridclip.sweeps.storage.protocol import KnownTrials
from gridclip.sweeps.storage.trial import Trial

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def state_of(trials):
    return KnownTrials(trials).state(())


def make_trial(tmp_path, number, *, state="finished", started=0.0, took=None, **metrics):
    """A trial that began so many seconds after NOW and took so many."""
    folder = tmp_path / f"{number:03d}"
    folder.mkdir()
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    begin = NOW + timedelta(seconds=started)
    return Trial(
        number=number,
        folder=folder,
        point={"model.x": number / 3, "data.list": ["[red]", number]},
        argv=(),
        run_id="",
        started=begin,
        state=state,
        ended=None if took is None else begin + timedelta(seconds=took),
    )


@pytest.fixture
def spec(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "method: grid\nprogram: p\nparameters:\n"
        "  {model.x: {values: [1, 2]}, data.list: {values: [[1], [2]]}, lr: {value: 1}}\n"
    )
    return read_sweep(file)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.b.image", "a.b.grid"], ["image", "grid"]),
        (["a.weights.image", "b.losses.image"], ["weights.image", "losses.image"]),
        (["lr", "model.lr"], ["lr", "model.lr"]),
        (["x.rate", "x.learning_rate"], ["rate", "learning_rate"]),
    ],
)
def test_a_short_name_is_the_shortest_end_that_tells_names_apart(names, expected):
    short = list(short_names(names).values())
    assert short == expected
    assert len(set(short)) == len(names)


@pytest.mark.parametrize(("goal", "number"), [("maximize", 2), ("minimize", 1)])
def test_the_best_is_the_first_finished_trial_with_the_best_value(tmp_path, goal, number):
    trials = [
        make_trial(tmp_path, 1, APr=0.1),
        make_trial(tmp_path, 2, APr=0.3),
        make_trial(tmp_path, 3, APr=0.3),
        make_trial(tmp_path, 4, APr=0.1),
        make_trial(tmp_path, 5, state="failed", APr=0.9),
        make_trial(tmp_path, 6, AP=0.9),
        make_trial(tmp_path, 7, APr=float("nan")),
        make_trial(tmp_path, 8, state="stopped", APr=0.0),
    ]
    trial, _ = best_trial(trials, Metric(name="val/APr", goal=goal))
    assert trial.number == number


def test_without_a_result_there_is_no_best(tmp_path):
    assert best_trial([make_trial(tmp_path, 1)], Metric(name="val/APr")) is None


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("val/APr", 0.1234, "12.3"),
        ("AP50", 1, "100.0"),
        ("val/loss", 0.123456, "0.1235"),
        ("AP", None, "–"),
        ("AP", 0.0, "0.0"),
    ],
)
def test_precisions_are_shown_in_percent_and_gaps_as_dashes(name, value, shown):
    assert figure(name, value) == shown


def test_the_table_shows_what_differs_and_takes_no_value_for_markup(tmp_path, spec):
    trials = [make_trial(tmp_path, 1, took=90, AP=0.5), make_trial(tmp_path, 2, took=30)]
    output = io.StringIO()
    Console(file=output, width=120).print(trial_table(trials, spec))
    heading, first, second = (
        line.split() for line in output.getvalue().splitlines() if line[:1] in "│┃"
    )
    assert [word for word in heading if word != "┃"] == [
        *("trial", "list", "x", "AP", "APr", "APc", "APf", "minutes", "state")
    ]
    assert " ".join(first) == ("│ 1 │ ['[red]', 1] │ 0.3333 │ 50.0 │ – │ – │ – │ 1.5 │ finished │")
    assert second[1] == "2"


@pytest.mark.field
@pytest.mark.parametrize("width", [40, 80])
def test_no_figure_is_cut_in_a_narrow_terminal_at_the_end_or_on_the_way(tmp_path, spec, width):
    metrics = {"AP": 1.0, "APr": 0.123, "APc": 0.456, "APf": 1.0}
    done = make_trial(tmp_path, 10, took=90, **metrics)
    running = replace(make_trial(tmp_path, 11, state="running", **metrics), host="a-host")
    progress = Progress(Console(file=io.StringIO()), spec, planned=3, jobs=1)
    for table in (trial_table([done], spec), progress._table(state_of([done, running]), NOW)):
        output = io.StringIO()
        Console(file=output, width=width).print(table)
        words = output.getvalue().replace("│", " ").split()
        assert {"10", "3.333", "100.0", "12.3", "45.6"} <= set(words)
        assert words.count("100.0") == 2 * words.count("12.3")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.0, "59 s"),
        (59.6, "1:00 min"),
        (3599.0, "59:59 min"),
        (7620.0, "2 h 07 min"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds, said):
    assert duration(seconds) == said


def test_the_time_left_follows_from_finished_trials_and_the_jobs(tmp_path, spec):
    progress = Progress(Console(file=io.StringIO()), spec, planned=8, jobs=2)
    trials = [
        make_trial(tmp_path, 1, took=100, AP=0.1),
        make_trial(tmp_path, 2, state="failed", took=3),
        make_trial(tmp_path, 3, state="running", started=100),
        make_trial(tmp_path, 4, state="running", started=-500),
    ]
    now = NOW + timedelta(seconds=140)
    # 60 s of trial 3, none of the late trial 4, and 4 trials of 100 s to come, two at a time.
    assert progress._seconds_left(state_of(trials), now) == pytest.approx((60 + 0 + 400) / 2)
    assert progress._seconds_left(state_of(trials[1:]), now) is None


def test_a_running_trial_tells_the_time_before_any_has_finished(tmp_path, spec):
    progress = Progress(Console(file=io.StringIO()), spec, planned=3, jobs=1)
    row = {"step": 30, "time": 60.0, "val/AP": 0.1}
    trial = replace(make_trial(tmp_path, 1, state="running"), rows=(row,), figures={}, steps=90)
    now = NOW + timedelta(seconds=80)
    # 180 s in all, 80 of them gone, and two trials to come.
    assert progress._seconds_left(state_of([trial]), now) == pytest.approx(100 + 2 * 180)
    assert steps(trial) == "30/90"
    assert steps(replace(trial, steps=None)) == "30"
    assert steps(replace(trial, rows=())) == "–"


def test_trials_of_other_machines_are_shown_with_their_host(tmp_path, spec):
    progress = Progress(Console(file=io.StringIO()), spec, planned=3, jobs=1)
    trials = [replace(make_trial(tmp_path, n, state="running"), host=f"host{n}") for n in (1, 2)]
    for shown, expected in ((trials, ("host1", "host2")), (trials[:1], ())):
        output = io.StringIO()
        Console(file=output, width=150).print(progress._table(state_of(shown), NOW))
        assert all(name in output.getvalue() for name in expected)
        assert ("host1" in output.getvalue()) is bool(expected)


def test_the_caption_counts_what_is_done_and_what_will_run_again(tmp_path, spec):
    progress = Progress(Console(file=io.StringIO()), spec, planned=6, jobs=1)
    states = ("finished", "failed", "pruned", "interrupted", "stopped")
    trials = [make_trial(tmp_path, n, state=state, took=9) for n, state in enumerate(states, 1)]
    caption = progress._table(state_of(trials), NOW).caption
    assert caption == "3 of 6 trials done, 1 failed, 1 pruned, about 27 s left"


def test_a_log_tells_once_how_the_trial_of_another_machine_ended(tmp_path, spec):
    output = io.StringIO()
    progress = Progress(Console(file=output, width=200), spec, planned=2, jobs=1)
    trial = make_trial(tmp_path, 1, state="running", AP=0.5)
    for state in ("running", "finished", "finished"):
        progress._shown = 0.0
        progress.show(state_of([replace(trial, state=state)]))
    assert output.getvalue().count("trial 1/2 finished") == 1


def test_named_groups_of_some_trials_are_columns_of_all(tmp_path, spec):
    trials = [
        make_trial(tmp_path, 1, took=1, AP=0.1, APr=0.2, APc=0.3, APf=0.4),
        make_trial(tmp_path, 2, took=1, AP=0.1, AP_novel=0.25, AP50_novel=0.5),
    ]
    shown = trial_table(trials, spec)
    assert shown.headings[3:-2] == ("AP", "APr", "APc", "APf", "AP_novel", "AP50_novel")
    assert [row[0][-4:-2] for row in shown.rows] == [("–", "–"), ("25.0", "50.0")]
    goal = replace(spec, metric=Metric(name="val/AP_novel", goal="maximize"))
    assert measured_names(goal, trials)[4:] == ["val/AP_novel", "AP50_novel"]
