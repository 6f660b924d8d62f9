from datetime import UTC, datetime
from pathlib import Path

import pytest
from scipy import stats

from gridclip.io.errors import InputError
from gridclip.sweeps.search.search import RandomSearch, make_search
from gridclip.sweeps.spec.parameters import arguments
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.trial import Trial


def spec_of(tmp_path: Path, parameters: str, head: str = "method: grid"):
    file = tmp_path / "sweep.yaml"
    file.write_text(f"{head}\nprogram: p\nparameters: {{{parameters}}}\n")
    return read_sweep(file)


def run_out(search, limit: int = 100):
    """All points a search proposes, each taken as a trial before the next is asked for."""
    trials: list[Trial] = []
    while len(trials) < limit and (point := search.propose(len(trials) + 1, trials)) is not None:
        trials.append(
            Trial(
                number=len(trials) + 1,
                folder=Path("unused"),
                point=point,
                argv=(),
                run_id="",
                started=datetime.now(UTC),
            )
        )
    return [dict(trial.point) for trial in trials]


def test_a_grid_turns_the_last_name_fastest(tmp_path):
    spec = spec_of(tmp_path, "b: {values: [x, y]}, a: {min: 1, max: 2}, c: {value: 0}")
    assert run_out(make_search(spec)) == [
        {"a": a, "b": b, "c": 0} for a in (1, 2) for b in ("x", "y")
    ]


def test_equal_values_are_tried_once_and_true_is_not_one(tmp_path):
    spec = spec_of(tmp_path, "a: {values: [1, 1.0, true, '1', [1], [1]]}")
    search = make_search(spec)
    assert [point["a"] for point in run_out(search)] == [1.0, True, "1", [1]]
    assert search.size == 4


def test_a_grid_gives_each_number_its_combination_whatever_the_others_do(tmp_path):
    search = make_search(spec_of(tmp_path, "b: {values: [x, y]}, a: {values: [1, 2, 3]}"))
    expected = [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")]
    assert [search.propose(number, []) for number in range(6, 0, -1)] == expected[::-1]
    assert search.propose(7, []) is None


@pytest.mark.field
def test_a_grid_over_a_wide_range_is_counted_and_never_written_out(tmp_path):
    most = 2**70
    parameters = f"seed: {{min: 0, max: {most}}}, b: {{values: [x, y]}}, q: {{distribution: "
    parameters += "q_uniform, min: 0, max: 1000000000, q: 1}"
    search = make_search(spec_of(tmp_path, parameters))
    assert search.size == (most + 1) * 2 * 10**9
    numbers = (1, 2, most + 2, search.size)
    points = [tuple(search.propose(number, []).values()) for number in numbers]
    assert points == [("x", 0, 0), ("x", 0, 1), ("x", 1, 0), ("y", 10**9 - 1, most)]
    assert search.propose(search.size + 1, []) is None


def test_a_seed_repeats_its_draws_and_another_does_not(tmp_path):
    spec = spec_of(tmp_path, "a: {min: 0.0, max: 1.0}, b: {values: [x, y, z]}", "method: random")
    first, again, other = (run_out(make_search(spec, seed=seed), limit=20) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len({point["a"] for point in first}) == 20
    assert first == [
        RandomSearch(spec.parameters, 3).propose(number, []) for number in range(1, 21)
    ]


def test_a_parameter_more_leaves_the_other_draws_as_they_were(tmp_path):
    few = make_search(spec_of(tmp_path, "b: {min: 0.0, max: 1.0}", "method: random"))
    more = make_search(
        spec_of(tmp_path, "a: {min: 0.0, max: 1.0}, b: {min: 0.0, max: 1.0}", "method: random")
    )
    assert [p["b"] for p in run_out(few, 5)] == [p["b"] for p in run_out(more, 5)]


def test_draws_follow_the_distribution_and_are_independent_between_parameters(tmp_path):
    spec = spec_of(tmp_path, "a: {min: 0.0, max: 1.0}, b: {min: 0.0, max: 1.0}", "method: random")
    search = make_search(spec)
    assert isinstance(search, RandomSearch)
    points = [search.propose(number, []) for number in range(1, 2001)]
    a, b = ([point[name] for point in points] for name in "ab")
    assert stats.kstest(a, "uniform").pvalue > 0.01
    assert stats.kstest(b, "uniform").pvalue > 0.01
    assert abs(stats.pearsonr(a, b).statistic) < 0.06
    assert abs(stats.pearsonr(a[1:], a[:-1]).statistic) < 0.06


def test_nested_parameters_become_a_mapping(tmp_path):
    spec = spec_of(tmp_path, "n: {parameters: {z: {value: 1}, k: {value: 2}}}, a: {value: 3}")
    (point,) = run_out(make_search(spec))
    assert point == {"a": 3, "n.k": 2, "n.z": 1}
    assert arguments(spec.parameters, point) == {"a": 3, "n": {"k": 2, "z": 1}}


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("method: custom", r"method: custom \(line 1\)"),
        ("scheduler: {engine: wandb}\nmethod: grid", r"scheduler \(line 1\)"),
        ("job: x\nimage_uri: y\nmethod: grid", r"job \(line 1\), image_uri \(line 2\)"),
    ],
)
def test_what_only_wandb_carries_out_is_refused_and_named(tmp_path, head, named):
    spec = spec_of(tmp_path, "a: {value: 1}", head)
    with pytest.raises(
        InputError,
        match=rf"{named}: is carried out by services of W&B, not on this machine\n.*wandb agent",
    ):
        make_search(spec)
