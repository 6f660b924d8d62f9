"""Our argv against that of the installed W&B agent, which starts real processes here."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from gridclip.sweeps.command import expand_command
from gridclip.sweeps.parameters import arguments
from gridclip.sweeps.search import make_search
from gridclip.sweeps.spec import DEFAULT_COMMAND, MACROS, SweepSpec, read_sweep

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
# Values that a sweep file may hold and a command line may trip over.
ODD = {
    "model.w": 1e-05,
    "flag": True,
    "off": False,
    "none": None,
    "list": [0.8, 0.9],
    "text": "a b = 'c' ${args}",
    "nest": {"z": 1, "k": {"deep": [True]}},
    "number": 3,
}


@pytest.fixture
def agent_argv(tmp_path, monkeypatch):
    """What W&B's agent would run, seen by running it: a function of command, arguments, program."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them in this process; undone afterwards
    from wandb.wandb_agent import Agent

    tell = tmp_path / "tell.py"
    told = tmp_path / "told.json"
    tell.write_text(
        f"import json, sys\nfrom pathlib import Path\n"
        f"part = Path({str(told)!r} + '.part')\n"
        f"part.write_text(json.dumps(sys.argv))\npart.replace({str(told)!r})\n"
    )

    def run(command, given, program):
        # The words to compare are handed to a script, so that any of them is harmless.
        told.unlink(missing_ok=True)
        agent = Agent(api=None, queue=None, sweep_id="s1")
        agent._sweep_command = [sys.executable, str(tell), *command]
        wrapped = {name: {"value": value} for name, value in given.items()}
        agent._command_run({"type": "run", "run_id": "r1", "program": program, "args": wrapped})
        agent._run_processes["r1"].wait(timeout=60)
        deadline = time.monotonic() + 10
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return json.loads(told.read_text())[1:]

    return run


def our_argv(spec_command, given, program, json_file):
    words = expand_command(spec_command, given, program=program, json_file=json_file)
    # The one documented difference: the agent says "python", we name the Python that runs.
    return ["python" if word == sys.executable else word for word in words]


def point_of(spec: SweepSpec, number: int):
    search = make_search(spec, seed=number)
    point = search.propose(1, [])
    assert point is not None
    return arguments(spec.parameters, point)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_sweep_file_gives_the_agents_words(file, agent_argv, tmp_path):
    spec = read_sweep(file)
    given = point_of(spec, 0)
    expected = agent_argv(spec.command, given, spec.program)
    assert our_argv(spec.command, given, spec.program, tmp_path / "unused") == expected
    assert len(expected) == len(spec.command) - 1 + len(given)


def test_every_macro_gives_the_agents_words(agent_argv, tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", "/data dir")
    command = [
        *(f"${{{macro}}}" for macro in MACROS),
        "x${program}y",
        "${envvar:HERE}",
        "--a=${envvar:HERE}/${envvar:GONE}",
        3,
        "last",
    ]
    # Where the agent keeps it; ours may be anywhere.
    json_file = tmp_path / "wandb" / "sweep-s1" / "config-r1.json"
    expected = agent_argv(list(command), ODD, "train.py")
    theirs = json.loads(json_file.read_text())
    ours = our_argv([str(word) for word in command], ODD, "train.py", json_file)
    assert ours == expected
    assert json.loads(json_file.read_text()) == theirs == ODD


def test_the_macros_are_all_that_the_installed_wandb_knows():
    from wandb.sdk.launch.sweeps import utils

    known = utils.create_sweep_command_args({"args": {}}).keys()
    assert set(MACROS) == (known - {"args_dict"}) | {
        "env",
        "interpreter",
        "program",
        "args_json_file",
    }
    assert tuple(utils.DEFAULT_SWEEP_COMMAND) == DEFAULT_COMMAND


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_installed_wandb_reads_the_file_as_we_do(file):
    from wandb.sdk.launch.sweeps import utils

    config = utils.load_sweep_config(str(file))
    spec = read_sweep(file)
    assert config["method"] == spec.method
    assert tuple(config["command"]) == spec.command
    assert sorted(config["parameters"]) == [parameter.name for parameter in spec.parameters]
    assert config["metric"]["name"] == spec.metric.name
    assert os.environ.get("WANDB_SWEEP_ID") is None
