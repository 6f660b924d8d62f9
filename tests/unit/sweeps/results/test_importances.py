import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gridclip.io.errors import InputError
from gridclip.sweeps.results.importances import LEAST, importances, importances_markdown
from gridclip.sweeps.results.report import page_data
from gridclip.sweeps.search.search import make_search
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.trial import Trial

FILE = """
method: random
program: p
metric: {name: val/APr, goal: GOAL}
parameters:
  model.lr: {distribution: log_uniform_values, min: 0.0001, max: 1.0}
  model.kind: {values: [[good], bad, null]}
  seed_everything: {min: 0, max: 9}
  fixed: {value: 3}
"""


def spec_of(folder, goal="maximize"):
    file = folder / "sweep.yaml"
    file.write_text(FILE.replace("GOAL", goal))
    return read_sweep(file)


def made(spec, folder, value_of, count=60) -> list[Trial]:
    """Trials as a search draws them, whose value is a known function of their point."""
    search = make_search(spec)
    points = [search.propose(number, ()) for number in range(1, count + 1)]
    return [
        Trial(
            number=number,
            folder=folder,
            point=point,
            argv=(),
            run_id="",
            started=datetime.now(UTC),
            state="finished",
            rows=(),
            figures={"APr": value_of(point)},
        )
        for number, point in enumerate(points, 1)
    ]


def good_lr(point) -> float:
    return -abs(point["model.lr"] - 0.001)  # on the axis of the logarithm one narrow band


def good_kind(point) -> float:
    return float(point["model.kind"] == ["good"]) + random.Random(str(point)).random() / 10


@pytest.mark.parametrize(("value_of", "name"), [(good_lr, "model.lr"), (good_kind, "model.kind")])
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_the_parameter_on_which_the_metric_hangs_has_most_of_the_importance(
    tmp_path, value_of, name, goal
):
    spec = spec_of(tmp_path, goal)
    sign = 1 if goal == "maximize" else -1
    shares = importances(spec, made(spec, tmp_path, lambda point: sign * value_of(point)))
    assert next(iter(shares)) == name
    others = [share for other, share in shares.items() if other != name]
    assert shares[name] > 2 * max(others)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares.keys() == {"model.lr", "model.kind", "seed_everything"}


def test_trials_that_did_not_finish_do_not_count(tmp_path):
    spec = spec_of(tmp_path)
    trials = made(spec, tmp_path, good_lr)
    others = made(spec, tmp_path, good_kind)
    extra = [replace(trial, state="pruned", figures={"APr": 9.0}) for trial in others]
    assert importances(spec, trials) == importances(spec, [*trials, *extra])


def test_too_few_trials_are_refused_by_the_table_and_left_out_of_the_page(tmp_path):
    spec = spec_of(tmp_path)
    trials = made(spec, tmp_path, good_lr, count=LEAST)
    assert "| lr |" in importances_markdown(spec, trials)
    assert page_data(spec, tmp_path, trials)["importances"].keys() >= {"model.lr"}
    with pytest.raises(InputError, match="9 finished trials with val/APr are too few"):
        importances_markdown(spec, trials[1:])
    assert page_data(spec, tmp_path, trials[1:])["importances"] == {}


@pytest.mark.parametrize("better", [0, 1])
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_nothing_is_told_where_the_worst_trials_are_among_the_best(tmp_path, goal, better):
    spec = spec_of(tmp_path, goal)
    trials = made(spec, tmp_path, lambda _: 0.5, count=LEAST)
    good = {"APr": 0.9 if goal == "maximize" else 0.1}
    trials[:better] = [replace(trial, figures=good) for trial in trials[:better]]
    assert importances(spec, trials) is None
    with pytest.raises(InputError, match="too alike"):
        importances_markdown(spec, trials)
