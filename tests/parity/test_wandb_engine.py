"""Our spec, distributions, grids and hyperband against W&B's own engine, the package `sweeps`.

It demands numpy < 2, so it can't stand beside this package's requirements: `make parity` installs
it into a folder of its own, without its dependencies, and runs these tests with it. Elsewhere they
are skipped; an engine that is there but can't be imported is an error.
"""

import copy
import json
import random
import re
import warnings
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from gridclip.io.errors import InputError
from gridclip.sweeps.search.search import GridSearch, make_search, stragglers
from gridclip.sweeps.spec.distributions import Numbers, identity, share
from gridclip.sweeps.spec.parameters import arguments
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.trial import Trial

try:
    version("sweeps")
except PackageNotFoundError:
    pytest.skip("W&B's engine is not installed; see make parity", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sweeps as engine
    from sweeps.config import schema_violations_from_proposed_config as schema_violations
    from sweeps.params import HyperParameter

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
SHARES = [float(u) for u in np.random.default_rng(0).uniform(size=400)]
DRAWS = 2000
HISTORIES = 200
RANGE = {"min": 0.5, "max": 8.5}
EXPONENTS = {"min": -3, "max": 2}
LAWS = [
    {"value": "x"},
    {"values": ["a", 1, None, [1, 2]]},
    {"values": ["a", "b", "c"], "probabilities": [0.2, 0.5, 0.3]},
    {"min": 3, "max": 17},
    {"min": 3.0, "max": 17.0},
    {"distribution": "uniform", "min": 3, "max": 17},
    {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8},
    {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.3},
    {"distribution": "q_uniform", "min": 0, "max": 9},
    {"distribution": "log_uniform", **EXPONENTS},
    {"distribution": "log_uniform_values", **RANGE},
    {"distribution": "q_log_uniform", **EXPONENTS, "q": 0.5},
    {"distribution": "q_log_uniform_values", **RANGE, "q": 2},
    {"distribution": "inv_log_uniform", **EXPONENTS},
    {"distribution": "inv_log_uniform_values", **RANGE},
    {"distribution": "normal", "mu": 2, "sigma": 0.5},
    {"distribution": "normal"},
    {"distribution": "q_normal", "mu": 20, "sigma": 5, "q": 3},
    {"distribution": "log_normal", "mu": 1, "sigma": 0.5},
    {"distribution": "q_log_normal", "mu": 2, "q": 1},
    {"distribution": "beta", "a": 2, "b": 5},
    {"distribution": "q_beta", "a": 2, "b": 5, "q": 0.05},
]
GRIDS = [
    {"b": {"values": ["x", "y"]}, "a": {"min": 1, "max": 3}, "c": {"value": 0}},
    {"a": {"values": [1, 1.0, True, "1", [1], [1], None]}, "b": {"values": [0.1, 0.2]}},
    {"q": {"distribution": "q_uniform", "min": 0.1, "max": 1.0, "q": 0.1}},
    {"q": {"distribution": "q_uniform", "min": 8, "max": 32, "q": 8}},
    {"z": {"values": [1, 2]}, "m": {"parameters": {"b": {"values": [3, 4]}, "a": {"value": 5}}}},
    {"a.b": {"values": [1, 2]}, "a_b": {"values": [1, 2]}, "A": {"values": [1, 2]}},
]


def read(tmp_path: Path, config: dict):
    """Our reading of a file; the engine doesn't care for the program, but we do."""
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"command": ["true"], **config}, sort_keys=False))
    return read_sweep(file)


@pytest.mark.parametrize("config", LAWS, ids=str)
def test_a_distribution_gives_the_engines_value_for_the_same_share(config, tmp_path):
    (parameter,) = read(tmp_path, {"method": "random", "parameters": {"p": config}}).parameters
    theirs = HyperParameter("p", config)
    for u in SHARES:
        expected, ours = theirs.ppf(u), parameter.distribution.at(u)
        expected = expected.item() if hasattr(expected, "item") else expected
        assert type(ours) is type(expected)
        assert ours == (pytest.approx(expected, rel=1e-9) if type(ours) is float else expected)


@pytest.mark.parametrize("config", LAWS, ids=str)
def test_draws_follow_the_engines_distribution(config, tmp_path):
    spec = read(tmp_path, {"method": "random", "parameters": {"p": config}})
    search = make_search(spec, seed=1)
    ours = [search.propose(number, [])["p"] for number in range(1, DRAWS + 1)]
    random.seed(1)
    theirs = [plain(HyperParameter("p", config).sample()) for _ in range(DRAWS)]
    is_discrete = "values" in config or "value" in config or len(set(map(identity, theirs))) < 100
    test = chi_squared if is_discrete else stats.ks_2samp
    assert test(ours, theirs).pvalue > 0.01


def chi_squared(ours, theirs):
    """Whether two lists have the same values equally often; seldom ones are taken together."""
    counts = [Counter(map(identity, values)) for values in (ours, theirs)]
    often = [value for value in counts[0] | counts[1] if sum(c[value] for c in counts) >= 20]
    table = [[*(c[value] for value in often), DRAWS - sum(c[v] for v in often)] for c in counts]
    kept = [column for column in zip(*table, strict=True) if sum(column)]
    return stats.chi2_contingency(kept)


def plain(value):
    return value.item() if hasattr(value, "item") else value


@pytest.mark.parametrize("config", LAWS, ids=str)
def test_a_share_is_the_engines_cumulative_distribution(config, tmp_path):
    (parameter,) = read(tmp_path, {"method": "random", "parameters": {"p": config}}).parameters
    if not isinstance(parameter.distribution, Numbers) or parameter.distribution.q is not None:
        return  # of a step we take the middle, and W&B the end
    theirs = HyperParameter("p", config)
    for u in (0.01, 0.3, 0.5, 0.99):
        value = parameter.distribution.at(u)
        assert share(parameter.distribution, value) == pytest.approx(
            float(theirs.cdf(value)), abs=1e-6
        )


@pytest.mark.parametrize("parameters", GRIDS, ids=str)
def test_a_grid_is_the_engines_point_by_point(parameters, tmp_path):
    config = {"method": "grid", "parameters": parameters}
    spec = read(tmp_path, config)
    search = make_search(spec)
    assert isinstance(search, GridSearch)
    theirs = [run for run in engine.next_runs(config, [], n=1000) if run is not None]
    expected = [{name: v["value"] for name, v in sorted(run.config.items())} for run in theirs]
    assert [arguments(spec.parameters, point) for point in search.points()] == expected
    assert search.size == len(expected)
    for done in range(len(expected)):  # and after any number of trials the next is the same
        following = engine.next_run(config, theirs[:done])
        ours = search.propose(done + 1, [])
        assert ours is not None
        given = {name: {"value": v} for name, v in arguments(spec.parameters, ours).items()}
        assert following.config == given
    assert engine.next_run(config, theirs) is None
    assert search.propose(len(theirs) + 1, []) is None


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_hyperband_stops_the_trials_that_the_engine_stops(seed, tmp_path):
    draw = random.Random(seed)
    metric, rule = {"name": "val/APr"}, {"type": "hyperband"}
    metric |= draw.choice([{}, {"goal": "minimize"}, {"goal": "maximize"}])
    rule |= draw.choice([{}, {"eta": 2}, {"eta": 3}, {"eta": 1.5}, {"eta": 4.5}])
    rule |= draw.choice([{}, {"strict": True}, {"strict": False}])
    few = {"min_iter": draw.randint(1, 4)}
    many = {"max_iter": draw.randint(5, 30), "s": draw.randint(1, 5)}
    rule |= draw.choice([few, many, few | many])
    config = {"metric": metric, "early_terminate": rule, "parameters": {"p": {"value": 1}}}
    spec = read(tmp_path, {"method": "random", **config})
    assert spec.early_terminate is not None
    assert spec.metric is not None
    trials, runs = [], []
    for number in range(1, draw.randint(2, 25)):
        rows = [a_row(draw) for _ in range(draw.randint(0, 30))]
        state = draw.choice(["running", "running", "finished", "failed", "pruned", "stopped"])
        trials.append(a_trial(tmp_path, number, rows, state))
        theirs = {"pruned": "killed", "stopped": "killed"}.get(state, state)
        runs.append(engine.SweepRun(name=str(number), state=theirs, history=rows))
    stopped = engine.stop_runs({"method": "random", **config}, runs)
    ours = stragglers(spec.early_terminate, spec.metric, trials)
    assert [str(trial.number) for trial in ours] == [run.name for run in stopped]


def a_row(draw: random.Random) -> dict:
    """A validation; few different values, so that some are equal, and now and then none."""
    value = round(draw.gauss(5, 2), draw.choice([0, 0, 1]))
    return draw.choice([{"val/APr": value}] * 8 + [{"other": value}, {"val/APr": float("nan")}])


def a_trial(folder: Path, number: int, rows, state: str) -> Trial:
    place = folder / str(number)
    place.mkdir()
    (place / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Trial(
        number=number,
        folder=place,
        point={},
        argv=(),
        run_id=str(number),
        started=datetime.now(UTC),
        state=state,
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_wandbs_schema_finds_no_fault_with_a_sweep_file(file):
    assert schema_violations(yaml.safe_load(file.read_text())) == []


# Two whole files, of which each key is left out, changed, or joined by another.
WHOLE = [
    {
        "method": "bayes",
        "program": "p",
        "name": "n",
        "description": "d",
        "project": "p",
        "entity": "e",
        "run_cap": 3,
        "apiVersion": "1",
        "kind": "sweep",
        "controller": {"type": "local"},
        "command": ["a", "${args}"],
        "metric": {
            "name": "m",
            "goal": "maximize",
            "target": 0.5,
            "impute": "best",
            "impute_while_running": "latest",
        },
        "early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2, "strict": True},
        "parameters": {
            "a": {"min": 1, "max": 3},
            "b": {"values": [1, 2], "probabilities": [0.5, 0.5]},
            "c": {"distribution": "q_normal", "mu": 0, "sigma": 1.5, "q": 2},
            "d": {
                "parameters": {
                    "e": {"distribution": "log_uniform_values", "min": 1, "max": 2},
                    "f": {"value": 3},
                }
            },
            "g": {"distribution": "q_beta", "a": 1, "b": 2.0, "q": 0.1},
        },
    },
    {
        "method": "grid",
        "program": "p",
        "metric": {"name": "m"},
        "early_terminate": {"type": "hyperband", "max_iter": 27, "s": 2},
        "parameters": {
            "a": {"distribution": "int_uniform", "min": 1, "max": 3},
            "q": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.5},
            "v": {"values": ["x", None, [1]]},
        },
    },
]
ODD = [None, True, 0, -1, 2, 1.5, "x", "2", [], [1], {}, {"a": 1}, float("nan")]
ADDED = {
    "bogus": 2,
    "value": 2,
    "values": ["x"],
    "min": 2,
    "q": 2,
    "mu": 2,
    "distribution": "uniform",
    "s": 2,
    "max_iter": 2,
    "goal": "maximize",
    "parameters": {"z": {"value": 1}},
    "metrics": [{"name": "a"}, {"name": "b"}],
    "scheduler": {"engine": "wandb"},
    "job": "x",
}
# What the schema lets pass and W&B trips over later, so that we refuse it at once.
LATER = {
    "nan is not a number": "the search would give it to the program",
    "is missing, and .* goes by it": "the engine: requires a metric section",
    "'s' is missing": "the engine: KeyError",
    r"max_iter.* (is less than eta|of at least 1)": "the engine: bands must not be empty",
    r"terminate\.s .* of at least 1": "the engine: bands must not be empty, or TypeError",
    "nothing to choose": "the engine: need at least one searchable parameter",
    "whole number and one that is not": "`wandb sweep`: is ambiguous",
    "(sigma|a|b) must be above 0": "the engine: its distribution is nan",
    "is not less than": "the schema looks at the first level only",
    "no grid can be made of it": "the engine: disallowed type with grid search",
    "no shares of 1|[0-9] values, [0-9] probabilities": "the schema looks at the first level only",
    "is missing, and the command runs it": "the agent would start None",
}


def variants(config):
    for path in paths(config):
        if path:
            yield f"without {path}", changed(config, path, lambda node, key: node.pop(key))
        for odd in ODD if path else []:
            yield (
                f"{path} = {odd}",
                changed(config, path, lambda node, key, odd=odd: node.update({key: odd})),
            )
        for key, value in ADDED.items():
            yield f"{path} with {key} = {value}", changed(config, (*path, key), put(value))


def put(value):
    def act(node, key):
        if isinstance(node, dict):
            node[key] = value

    return act


def changed(config, path, act):
    config = copy.deepcopy(config)
    node = config
    for key in path[:-1]:
        node = node[key]
    act(node, path[-1])
    return config


def paths(node, path=()):
    yield path
    for key in node if isinstance(node, dict) else ():
        yield from paths(node[key], (*path, key))


def refused_by_the_schema(config) -> bool:
    try:
        return bool(schema_violations(config))
    except (ValueError, KeyError, TypeError, AttributeError):
        return True


def our_refusal(tmp_path, config) -> str:
    try:
        spec = read(tmp_path, config)
        make_search(spec)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("config", WHOLE, ids=lambda config: config["method"])
def test_what_wandb_refuses_is_refused_and_nothing_else(config, tmp_path):
    assert not refused_by_the_schema(config)
    assert our_refusal(tmp_path, config) == ""
    count = 0
    for what, variant in variants(config):
        count += 1
        ours = our_refusal(tmp_path, variant)
        if refused_by_the_schema(variant):
            assert ours, what
        elif ours and "is carried out by services of W&B" not in ours:
            assert any(re.search(reason, ours) for reason in LATER), f"{what}: {ours}"
    assert count > 200


def test_an_example_of_each_refusal_that_the_schema_leaves_to_others(tmp_path):
    """The reasons of `LATER` hold: W&B's engine and client do refuse these, with an error."""
    bayes = {"method": "bayes", "parameters": {"a": {"min": 0.0, "max": 1.0}}}
    with pytest.raises(ValueError, match='requires "metric" section'):
        engine.next_run(bayes, [])
    fixed = bayes | {"metric": {"name": "m"}, "parameters": {"a": {"value": 1}}}
    with pytest.raises(ValueError, match="at least one searchable parameter"):
        engine.next_run(fixed, [])
    rule = {"type": "hyperband", "min_iter": 1, "max_iter": 9}
    with pytest.raises(KeyError, match="s"):
        engine.stop_runs(fixed | {"early_terminate": rule}, [])
    with pytest.raises(ValueError, match="Bands must be an array of length at least 1"):
        engine.stop_runs(fixed | {"early_terminate": rule | {"s": 2, "max_iter": 2}}, [])
    with pytest.raises(ValueError, match="disallowed type with grid search"):
        engine.next_run({"method": "grid", "parameters": {"a": {"min": 0.0, "max": 1.0}}}, [])
    nothing = HyperParameter("a", {"distribution": "normal", "sigma": 0}).ppf(0.3)
    assert np.isnan(nothing)
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution

    with pytest.raises(ValueError, match="ambiguous"):
        _validate_config_and_fill_distribution({"parameters": {"a": {"min": 1, "max": 2.5}}})
