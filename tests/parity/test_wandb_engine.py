"""Our grids and laws against W&B's own engine, the package `sweeps`.

It demands numpy < 2, so it can't stand beside this package's requirements; a parity job installs it
with `pip install --no-deps sweeps jsonref` and scikit-learn.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from gridclip.errors import InputError
from gridclip.sweeps.parameters import arguments
from gridclip.sweeps.search import GridSearch, make_search
from gridclip.sweeps.spec import read_sweep

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # Not "sweeps" itself: our folder of that name would pass for it.
    config_module = pytest.importorskip("sweeps.config", reason="W&B's engine is not installed")
    import sweeps as engine
    from sweeps.params import HyperParameter

schema_violations = config_module.schema_violations_from_proposed_config
REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
SHARES = [float(u) for u in np.random.default_rng(0).uniform(size=400)]
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
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"program": "p", **config}))
    return read_sweep(file)


@pytest.mark.parametrize("config", LAWS, ids=str)
def test_a_law_gives_the_engines_value_for_the_same_share(config, tmp_path):
    (parameter,) = read(tmp_path, {"method": "random", "parameters": {"p": config}}).parameters
    theirs = HyperParameter("p", config)
    for share in SHARES:
        expected, ours = theirs.ppf(share), parameter.law.at(share)
        expected = expected.item() if hasattr(expected, "item") else expected
        assert type(ours) is type(expected)
        assert ours == (pytest.approx(expected, rel=1e-9) if type(ours) is float else expected)


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


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_wandbs_schema_finds_no_fault_with_a_sweep_file(file):
    assert schema_violations(yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize(
    "change",
    [
        {"metod": "grid"},
        {"method": "best"},
        {"parameters": {}},
        {"parameters": {"p": {}}},
        {"parameters": {"p": {"values": []}}},
        {"parameters": {"p": {"min": 1}}},
        {"parameters": {"p": {"min": 2, "max": 1}}},
        {"parameters": {"p": {"min": 1, "max": "2"}}},
        {"parameters": {"p": {"min": 1, "max": True}}},
        {"parameters": {"p": {"value": 1, "values": [1]}}},
        {"parameters": {"p": {"values": [1], "distribution": "int_uniform"}}},
        {"parameters": {"p": {"values": [1, 2], "probabilities": [0.5]}}},
        {"parameters": {"p": {"values": [1, 2], "probabilities": [0.5, 0.4]}}},
        {"parameters": {"a/b": {"value": 1}}},
        {"parameters": {"p": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
        {"metric": {"goal": "minimize"}},
        {"metric": {"name": "m", "goal": "up"}},
        {"metric": {"name": "m", "target": "0.5"}},
        {"run_cap": 0},
        {"run_cap": 1.5},
        {"early_terminate": {"type": "hyperband"}},
        {"early_terminate": {"type": "median", "min_iter": 1}},
        {"early_terminate": {"type": "hyperband", "min_iter": 0}},
        {"command": "python train.py"},
    ],
    ids=str,
)
def test_what_wandbs_schema_refuses_is_refused(change, tmp_path):
    good = {"method": "random", "program": "p", "parameters": {"p": {"value": 1}}}
    assert schema_violations(good) == []
    assert schema_violations({**good, **change})
    read(tmp_path, good)
    with pytest.raises(InputError):
        read(tmp_path, {**good, **change})
