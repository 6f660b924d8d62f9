"""Our argv against that of the installed W&B agent, which starts real processes here."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from gridclip.io.arguments import PARSER_MODE
from gridclip.io.errors import InputError
from gridclip.sweeps.running.process import PATIENCE
from gridclip.sweeps.search.search import make_search
from gridclip.sweeps.spec.parameters import arguments
from gridclip.sweeps.spec.sweep_file import (
    DEFAULT_COMMAND,
    MACROS,
    SweepSpec,
    expand_command,
    read_sweep,
    write_arguments,
)

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


# A program that tells how it was started, says when it is told to stop, and goes on all the same.
TELL = """
import json, os, signal, sys, time
from pathlib import Path

told = Path({told!r})
signal.signal(signal.SIGTERM, lambda *_: told.with_suffix(".term").touch())
facts = {{
    "argv": sys.argv[1:],
    "environment": dict(os.environ),
    "stdin": sys.stdin.read(),
    "leads_group": os.getpgid(0) == os.getpid(),
}}
part = told.with_suffix(".part")
part.write_text(json.dumps(facts))
part.replace(told)
time.sleep({seconds})
"""


@pytest.fixture
def agent_run(tmp_path, monkeypatch):
    """Let W&B's agent start a program: a function of command, arguments, program and seconds.

    It returns the agent and what the program told of itself.
    """
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them in this process; undone afterwards
    from wandb.wandb_agent import Agent

    told = tmp_path / "told.json"

    def run(command, given, program, seconds=0):
        # The words to compare are handed to a script, so that any of them is harmless.
        (tmp_path / "tell.py").write_text(TELL.format(told=str(told), seconds=seconds))
        told.unlink(missing_ok=True)
        agent = Agent(api=None, queue=None, sweep_id="s1")
        agent._sweep_command = [sys.executable, str(tmp_path / "tell.py"), *command]
        wrapped = {name: {"value": value} for name, value in given.items()}
        agent._command_run({"type": "run", "run_id": "r1", "program": program, "args": wrapped})
        appears(told)
        return agent, json.loads(told.read_text())

    return run


@pytest.fixture
def agent_argv(agent_run):
    """What W&B's agent would run, seen by running it: a function of command, arguments, program."""

    def run(command, given, program):
        agent, told = agent_run(command, given, program)
        agent._run_processes["r1"].wait(timeout=60)
        return told["argv"]

    return run


def appears(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file.name}"
        time.sleep(0.01)


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
    write_arguments([str(word) for word in command], ODD, json_file)
    assert ours == expected
    assert json.loads(json_file.read_text()) == theirs == ODD


@pytest.mark.field
@pytest.mark.parametrize("macro", ["args", "args_no_equals"])
def test_our_parser_reads_the_agents_words_as_the_values_in_the_file(agent_argv, macro):
    odd = {
        "none": None,
        "flag": True,
        "off": False,
        "rate": 1e-05,
        "number": 3,
        "rates": [0.8, None, 1e-05],
        "names": ["it's", 'a "b"', "back\\slash", "None"],
        "text": "a b = 'c' ${args}",
        "nest": {"z": 1, "k": {"deep": [True, None]}},
    }
    kinds = {
        "none": str | None,
        "flag": bool,
        "off": bool,
        "rate": float,
        "number": int,
        "rates": list[float | None],
        "names": list[str],
        "text": str,
        "nest": dict[str, Any],
    }
    parser = ArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
    for name, kind in kinds.items():
        parser.add_argument(f"--{name}", type=kind)
    words = agent_argv([f"${{{macro}}}"], odd, None)
    assert parser.parse_args(words).as_dict() == odd


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


@pytest.mark.parametrize(
    "project", ["a b", "実験", "a/b", "x?", "50%", "a:b", "x" * 128, "x" * 129]
)
def test_a_project_is_refused_that_wandb_refuses(project, tmp_path):
    import wandb

    def is_refused(act, error):
        try:
            act()
        except error:
            return True
        return False

    file = tmp_path / "sweep.yaml"
    config = {"method": "grid", "program": "p", "parameters": {"a": {"value": 1}}}
    file.write_text(yaml.safe_dump(config | {"project": project}))
    theirs = is_refused(lambda: wandb.Settings(project=project), wandb.errors.UsageError)
    assert is_refused(lambda: read_sweep(file), InputError) == theirs


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


def test_what_the_agent_tells_a_trial_by_its_environment(agent_run, tmp_path):
    """A program that is to run under W&B's agent, and under ours, may rely on these alone."""
    before = dict(os.environ)
    _, told = agent_run(["${args}"], {"a": {"b": 1}}, None)
    known = ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE")
    set_by_the_agent = {
        name: value
        for name, value in told["environment"].items()
        if name.startswith("WANDB_") and (name in known or before.get(name) != value)
    }
    parameters = tmp_path / "wandb" / "sweep-s1" / "config-r1.yaml"
    assert set_by_the_agent == {"WANDB_RUN_ID": "r1", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    assert told["environment"]["WANDB_SWEEP_ID"] == "s1"  # of run_agent, and so inherited
    assert yaml.safe_load(parameters.read_text())["a"]["value"] == {"b": 1}
    assert told["stdin"] == ""
    assert told["leads_group"]  # so a Ctrl-C in the terminal reaches the agent alone


def test_the_agent_asks_a_trial_to_stop_and_kills_it_when_it_stays(agent_run, tmp_path):
    agent, _ = agent_run([], {}, None, seconds=120)
    process = agent._run_processes["r1"]
    agent._command_stop({"run_id": "r1"})
    appears(tmp_path / "told.term")  # SIGTERM first
    agent._command_stop({"run_id": "r1"})
    assert process.poll() is None  # within the delay a second order changes nothing
    agent._kill_delay = 0
    agent._command_stop({"run_id": "r1"})
    assert process.wait(timeout=60) == -signal.SIGKILL


def test_our_trials_have_as_long_as_the_agents_to_stop():
    from wandb.wandb_agent import Agent

    assert Agent.KILL_DELAY == PATIENCE
