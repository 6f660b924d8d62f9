"""Kill anything at any moment: each trial is recorded once, and never runs twice at a time."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from gridclip.sweeps.running.guard import MARK
from gridclip.sweeps.running.start import find_sweep

# A trial that tells an outside file when it begins and ends, beside what it tells the sweep. It
# takes hold of its number first: a second process of that number at the same time says so.
PROGRAM = """
import fcntl, json, os, sys, time
number = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])["x"]
def tell(word):
    handle = os.open("told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{number} {word}\\n".encode())
hold = open(f"hold-{number}", "w")
try:
    fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    tell("twice")
tell("begin")
run = os.environ["GRIDCLIP_RUN_DIR"] + "/"
for step in range(1, 4):
    time.sleep(SECONDS / 3)
    open(run + "history.jsonl", "a").write(json.dumps({"step": step, "val/APr": step / 10}) + "\\n")
with open(run + "part", "w") as file:
    json.dump({"APr": int(number) / 100}, file)
os.rename(run + "part", run + "metrics.json")
tell("end")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a sweep file of so many trials, each so many seconds long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    yield tmp_path
    for process in psutil.process_iter():  # whatever went wrong, leave nothing behind
        try:
            if process.environ().get("PWD_OF_TEST") == str(tmp_path):
                process.kill()
        except psutil.Error:
            continue


def write_sweep(seconds: float, trials: int) -> None:
    Path("train.py").write_text(PROGRAM.replace("SECONDS", str(seconds)))
    config = {
        "method": "grid",
        "program": "train.py",
        "metric": {"name": "val/APr", "goal": "maximize"},
        "parameters": {"x": {"values": list(range(1, trials + 1))}},
    }
    Path("chaos.yaml").write_text(yaml.safe_dump(config))


def run(*options: str) -> subprocess.Popen[bytes]:
    """A runner."""
    command = [sys.executable, "-m", "gridclip", "sweep", "run", "chaos.yaml", *options]
    with Path("runners.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--attempts=1000"],
            stdout=log,
            stderr=log,
            env={**os.environ, "PWD_OF_TEST": str(Path.cwd())},
        )


def begin(*options: str) -> tuple[subprocess.Popen[bytes], str]:
    """The first runner, and the name of its sweep."""
    runner = run(*options)
    deadline = time.monotonic() + 60
    while not list(Path().glob("runs*/sweeps/*/trials/001/trial.json")):
        assert runner.poll() is None, Path("runners.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (record,) = Path().glob("runs*/sweeps/*/trials/001/trial.json")
    return runner, record.parents[2].name


def processes(kind: str) -> list[psutil.Process]:
    """Those of this test's trials (the program, or its guard)."""
    found = []
    for process in psutil.process_iter():
        try:
            environment, words = process.environ(), process.cmdline()
        except psutil.Error:
            continue
        if environment.get("PWD_OF_TEST") == str(Path.cwd()) and MARK in environment:
            is_guard = any(word.endswith("guard.py") for word in words)
            found += [process] * (is_guard == (kind == "guard"))
    return found


def assert_survived(folder: Path, trials: int, storage: str | None = None) -> None:
    """Each trial once, with its result, and by the outside file never two at a time."""
    store = find_sweep(str(folder), folder.parent, storage).storage
    board = store.read()
    assert [trial.number for trial in board.trials] == list(range(1, trials + 1))
    assert Counter(trial.state for trial in board.trials) == {"finished": trials}
    assert [trial.point["x"] for trial in board.trials] == list(range(1, trials + 1))
    assert [trial.value("val/APr") for trial in board.trials] == [
        number / 100 for number in range(1, trials + 1)
    ]
    assert [len(trial.history()) for trial in board.trials] == [3] * trials
    told = [line.split() for line in Path("told").read_text().splitlines()]
    assert [number for number, word in told if word == "twice"] == []
    assert {number for number, word in told if word == "end"} == set(map(str, range(1, trials + 1)))
    results = json.loads((folder / "results.json").read_text())
    assert [trial["trial"] for trial in results["trials"]] == list(range(1, trials + 1))
    assert results["best"] == trials
    assert processes("trial") == processes("guard") == []


def chaos(runners, starts, kills: int, seed: int) -> Counter[str]:
    """Kill something at random, again and again, while trials are at work; say what was hit.

    A runner that died, or ended, is started again. The sweep has to be long enough.
    """
    draw = random.Random(seed)
    hit: Counter[str] = Counter()
    deadline = time.monotonic() + 15 * kills
    while hit.total() < kills:
        assert time.monotonic() < deadline, f"only {hit}: {Path('runners.log').read_text()[-2000:]}"
        time.sleep(draw.uniform(0.0, 0.3))
        for place, runner in enumerate(runners):
            if runner.poll() is not None:
                runners[place] = starts[place]()
        trials = processes("trial")
        if not trials:
            continue
        kind = ("runner", "trial", "guard", "trial")[hit.total() % 4]
        targets = {"trial": trials, "guard": processes("guard"), "runner": runners}[kind]
        try:
            os.kill(draw.choice(targets).pid, signal.SIGKILL)
        except (ProcessLookupError, IndexError):
            continue
        hit[kind] += 1
    return hit


def finish(runners, starts, seconds: float) -> None:
    """Let the sweep come to its end without further kills."""
    deadline = time.monotonic() + seconds
    for place in range(len(runners)):
        code = runners[place].wait(max(1.0, deadline - time.monotonic()))
        if code != 0:  # killed at last
            runners[place] = starts[place]()
            code = runners[place].wait(max(1.0, deadline - time.monotonic()))
        assert code == 0, Path("runners.log").read_text()[-4000:]


def one_runner(kills: int, trials: int, seconds: float, seed: int) -> None:
    write_sweep(seconds, trials)
    runner, name = begin("--jobs=3")
    runners = [runner]
    starts = [lambda: run("--jobs=3", "--resume", name)]
    hit = chaos(runners, starts, kills, seed)
    finish(runners, starts, 120)
    assert hit.keys() == {"runner", "trial", "guard"}
    assert_survived(Path("runs/sweeps") / name, trials)


def test_a_sweep_of_three_workers_survives_random_kills(here):
    one_runner(kills=8, trials=8, seconds=0.9, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sweep_of_three_workers_survives_fifty_random_kills(here, seed):
    one_runner(kills=50, trials=20, seconds=1.5, seed=seed)


def three_runners(address: str, kills: int, trials: int, seconds: float, seed: int) -> None:
    """As on three machines without a common disk: each has folders of its own."""
    write_sweep(seconds, trials)
    storage = f"--storage={address}"
    first, name = begin(storage, "--dir=runs1/sweeps")
    starts = [
        lambda place=place: run(storage, f"--dir=runs{place}/sweeps", "--resume", name)
        for place in (1, 2, 3)
    ]
    runners = [first, starts[1](), starts[2]()]
    hit = chaos(runners, starts, kills, seed)
    finish(runners, starts, 120)
    assert hit.keys() == {"runner", "trial", "guard"}
    for place in (1, 2, 3):
        assert_survived(Path(f"runs{place}/sweeps") / name, trials, address)


def test_three_runners_on_one_postgresql_survive_random_kills(here, postgresql):
    three_runners(postgresql.address, kills=8, trials=8, seconds=0.9, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_three_runners_on_one_postgresql_survive_fifty_random_kills(here, postgresql, seed):
    three_runners(postgresql.address, kills=50, trials=20, seconds=1.5, seed=seed)


@pytest.mark.slow
def test_a_crash_of_the_database_costs_no_trial(here, postgresql):
    write_sweep(seconds=1.5, trials=4)
    runner, name = begin(f"--storage={postgresql.address}", "--dir=runs/sweeps", "--jobs=2")
    for _ in range(3):
        time.sleep(1)
        postgresql.crash()
    assert runner.wait(120) == 0
    assert_survived(Path("runs/sweeps") / name, 4, postgresql.address)
    told = Counter(Path("told").read_text().splitlines())
    assert set(told.values()) == {1}  # not one had to be run again
