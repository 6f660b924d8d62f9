import json
import math
import statistics
from datetime import UTC, datetime
from pathlib import Path

import pytest
from scipy.stats import qmc

from gridclip.sweeps.search.bayes import STARTUP, BayesSearch, scores
from gridclip.sweeps.search.search import RandomSearch, make_search
from gridclip.sweeps.spec.distributions import Choice, Integers, Numbers
from gridclip.sweeps.spec.parameters import Parameter
from gridclip.sweeps.spec.sweep_file import Metric, read_sweep
from gridclip.sweeps.storage.trial import Trial

LOSS = Metric(name="loss")
RATE = Parameter(
    path=("rate",),
    distribution=Numbers(name="log_uniform_values", settings={"min": 1e-5, "max": 1.0}),
)
UNIFORM = Numbers(name="uniform", settings={"min": 0, "max": 1})
WIDTH = Parameter(path=("width",), distribution=Integers(min=1, max=9))
KIND = Parameter(path=("kind",), distribution=Choice(values=("good", ["bad"], None)))
FIXED = Parameter(path=("fixed",), distribution=Choice(values=(7,)))
ALL = (FIXED, KIND, RATE, WIDTH)


def trial(folder: Path, number: int, point, *, value=None, history=(), state="finished") -> Trial:
    place = folder / f"{number:03d}"
    place.mkdir(exist_ok=True)
    if value is not None:
        (place / "metrics.json").write_text(json.dumps({"loss": value}))
    (place / "history.jsonl").write_text(
        "".join(json.dumps({"loss": row}) + "\n" for row in history)
    )
    return Trial(
        number=number,
        folder=place,
        point=point,
        argv=(),
        run_id="",
        started=datetime.now(UTC),
        state=state,
    )


def loss(point) -> float:
    """Lowest, 0, at a rate of 0.01, a width of 3 and the good kind, if any."""
    far = (math.log10(point["rate"]) + 2) ** 2 + ((point["width"] - 3) / 4) ** 2
    return far + (point.get("kind", "good") != "good")


def sweep(search, folder: Path, count: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(1, count + 1):
        point = search.propose(number, trials)
        trials.append(trial(folder, number, point, value=loss(point)))
    return trials


def best(trials) -> float:
    return min(loss(trial.point) for trial in trials)


def test_a_bayes_search_finds_better_points_than_a_random_one(tmp_path):
    def median(make) -> float:
        (tmp_path / make.__name__).mkdir()
        found = [sweep(make(seed), tmp_path / make.__name__, 12) for seed in range(3)]
        return statistics.median(map(best, found))

    def guessed(seed):
        return BayesSearch((RATE, WIDTH), LOSS, seed)

    def drawn(seed):
        return RandomSearch((RATE, WIDTH), seed)

    assert median(guessed) < 0.3 * median(drawn)


def test_the_same_seed_number_and_trials_give_the_same_point(tmp_path):
    trials = sweep(BayesSearch(ALL, LOSS, seed=1), tmp_path, STARTUP + 1)
    again = [BayesSearch(ALL, LOSS, seed=1).propose(9, order) for order in (trials, trials[::-1])]
    assert again[0] == again[1]
    assert BayesSearch(ALL, LOSS, seed=1).propose(10, trials) != again[0]
    assert BayesSearch(ALL, LOSS, seed=2).propose(9, trials) != again[0]
    assert BayesSearch(ALL, LOSS, seed=1).propose(9, trials[:-1]) != again[0]


def test_the_metrics_goal_decides_what_is_better(tmp_path):
    rate = Parameter(path=("x",), distribution=UNIFORM)
    trials = [
        trial(tmp_path, number, {"x": number / 10}, value=number / 10) for number in range(1, 10)
    ]
    most = BayesSearch((rate,), Metric(name="loss", goal="maximize")).propose(10, trials)
    least = BayesSearch((rate,), LOSS).propose(10, trials)
    assert most["x"] > 0.9
    assert least["x"] < 0.1


def test_constants_stay_and_every_value_is_one_of_its_distribution(tmp_path):
    for done in sweep(BayesSearch(ALL, LOSS), tmp_path, STARTUP + 4):
        assert done.point.keys() == {"fixed", "kind", "rate", "width"}
        assert done.point["fixed"] == 7
        assert done.point["kind"] in ("good", ["bad"], None)
        assert 1e-5 <= done.point["rate"] <= 1
        assert done.point["width"] in range(1, 10)


def test_the_first_points_fill_the_cube_more_evenly_than_draws_do():
    distribution = UNIFORM
    axes = tuple(Parameter(path=(name,), distribution=distribution) for name in "xyz")

    def unevenness(search) -> float:
        points = [search.propose(number, []) for number in range(1, 17)]
        return qmc.discrepancy([[point[name] for name in "xyz"] for point in points])

    spread = [unevenness(BayesSearch(axes, LOSS, seed)) for seed in range(9)]
    drawn = [unevenness(RandomSearch(axes, seed)) for seed in range(9)]
    assert statistics.median(spread) < 0.5 * statistics.median(drawn)
    assert max(spread) < min(drawn)


def test_runners_side_by_side_get_other_points(tmp_path):
    search = BayesSearch((RATE,), LOSS)
    ended = [
        trial(tmp_path, number, {"rate": 10.0**-number}, value=abs(number - 2.6))
        for number in range(1, 6)
    ]
    first = search.propose(6, ended)
    running = trial(tmp_path, 6, first, state="running")
    second = search.propose(7, [*ended, running])
    assert abs(math.log10(first["rate"] / second["rate"])) > 0.05


def test_no_value_of_a_trial_that_runs_is_used_unless_the_file_says_so(tmp_path):
    ended = trial(tmp_path, 1, {}, value=3.0)
    running = trial(tmp_path, 2, {}, history=[5.0, 1.0, 2.0], state="running")
    silent = trial(tmp_path, 3, {}, state="interrupted")  # it will be run again
    assert scores(LOSS, [ended, running, silent]) == [(ended, 3.0), (running, None), (silent, None)]
    stopped = trial(tmp_path, 4, {}, history=[5.0], state="stopped")  # so will this one
    assert scores(LOSS, [stopped]) == [(stopped, None)]

    def while_running(rule: str):
        metric = Metric(name="loss", impute_while_running=rule)
        return [score for _, score in scores(metric, [ended, running, silent])]

    assert while_running("best") == [3.0, 1.0, None]
    assert while_running("latest") == [3.0, 2.0, None]
    assert while_running("worst") == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("state", ["failed", "pruned"])
@pytest.mark.parametrize(
    ("goal", "impute", "expected"),
    [
        ("minimize", "worst", 4.0),
        ("maximize", "worst", 3.0),
        ("minimize", "best", 1.0),
        ("maximize", "best", 5.0),
        ("minimize", "latest", 2.0),
    ],
)
def test_a_trial_that_did_not_finish_counts_for_what_the_file_says(
    tmp_path, state, goal, impute, expected
):
    ended = [trial(tmp_path, number, {}, value=number) for number in (3, 4)]
    broken = trial(tmp_path, 5, {}, history=[5.0, 1.0, 2.0], state=state)
    metric = Metric(name="loss", goal=goal, impute=impute)
    assert dict((t.number, s) for t, s in scores(metric, [*ended, broken]))[5] == expected


def test_trials_without_a_value_are_left_out_while_there_is_none_at_all(tmp_path):
    broken = trial(tmp_path, 1, {}, state="failed")
    running = trial(tmp_path, 2, {}, state="running")
    assert scores(LOSS, [broken, running]) == [(running, None)]


def test_points_where_trials_failed_are_avoided(tmp_path):
    x = Parameter(path=("x",), distribution=UNIFORM)
    ended = [trial(tmp_path, n, {"x": n / 20}, value=1 - n / 20) for n in range(1, 10)]
    onwards = BayesSearch((x,), LOSS).propose(20, ended)
    failed = [trial(tmp_path, n, {"x": n / 20}, state="failed") for n in range(10, 20)]
    instead = BayesSearch((x,), LOSS).propose(20, [*ended, *failed])
    assert onwards["x"] > 0.5
    assert instead["x"] < 0.5


def test_a_choice_of_no_probability_is_never_guessed(tmp_path):
    distribution = Choice(values=("a", "b", "c", "d"), probabilities=(1.0, 0.0, 0.0, 0.0))
    search = BayesSearch((Parameter(path=("x",), distribution=distribution), RATE), LOSS)
    # All that is known is as bad, so anything new would be worth a try.
    points = [{"x": "a", "rate": 10.0**-n} for n in range(1, 6)]
    trials = [trial(tmp_path, n, point, value=1.0) for n, point in enumerate(points, start=1)]
    assert {search.propose(number, trials)["x"] for number in range(6, 10)} == {"a"}


def test_points_that_the_file_can_not_have_given_are_passed_over(tmp_path):
    foreign = [
        trial(tmp_path, 1, {"kind": "best", "rate": 0.1, "width": 1}, value=-9.0),
        trial(tmp_path, 2, {"kind": "good", "rate": 0.1}, value=-9.0),
    ]
    search = BayesSearch(ALL, LOSS)
    assert search.propose(3, foreign * STARTUP) == search.propose(3, [])


def test_a_sweep_file_asks_for_it(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "method: bayes\nprogram: p\nmetric: {name: m, goal: maximize}\n"
        "parameters: {a: {min: 0.0, max: 1.0}}\n"
    )
    spec = read_sweep(file)
    expected = BayesSearch(spec.parameters, Metric(name="m", goal="maximize"), 3)
    assert make_search(spec, seed=3) == expected
    assert expected.size is None
