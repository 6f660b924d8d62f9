"""Anything happens to the machines of a sweep; each trial comes to its one right figure.

What each fault costs is a property in what `--junit-xml=costs.xml -o junit_family=xunit1` writes.
"""

import json
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from faulty_machines import NAN, STEPS, Machine, expected, faults, told, write_sweep

from gridclip.sweeps.running.start import find_sweep

STEP = 0.5  # seconds
WINDOW = 24  # seconds in which a fault's consequences are over

pytestmark = [pytest.mark.slow, pytest.mark.field]


@pytest.fixture
def machines(tmp_path, monkeypatch, postgresql):
    """Makes so many machines whose runners share a database."""
    monkeypatch.chdir(tmp_path)
    made: list[Machine] = []

    def make(count: int) -> list[Machine]:
        for place in range(1, count + 1):
            made.append(Machine(place, postgresql.address_at))
            if not made[-1].build():
                pytest.skip("no network namespaces or disks may be made here")
        return made

    yield make
    for machine in made:
        machine.remove()


def begin(machines: list[Machine]) -> str:
    """Starts the runners; returns the name of their sweep."""
    machines[0].start()
    end = time.monotonic() + 60
    while not (found := list(Path("disk1").glob("*/trials/001/trial.json"))):
        assert time.monotonic() < end, Path("runner1.log").read_text()
        time.sleep(0.1)
    name = found[0].parents[2].name
    for machine in machines[1:]:
        machine.start("--resume", name)
    return name


def go_on(machines: list[Machine], name: str) -> list[int]:
    """Starts runners that ended again; returns the statuses of those."""
    ended = []
    for machine in machines:
        if machine.runner is not None and machine.runner.poll() is not None:
            ended.append(machine.runner.returncode)
            machine.start("--resume", name)
    return ended


def require_right(machines: list[Machine], name: str, trials: int, address: str) -> None:
    """Each trial once, with the figure of a sweep that nothing happened to, or failed for NaN."""
    found = find_sweep(str(machines[0].disk / name), machines[0].disk, address).storage.read()
    assert [trial.number for trial in found.trials] == list(range(1, trials + 1))
    for trial in found.trials:
        number = trial.number
        assert trial.point["x"] == number
        assert trial.state == ("failed" if number in NAN else "finished"), trial
        assert number in NAN or trial.value("val/APr") == expected(number)
        assert [row["step"] for row in trial.history()] == [5, 10, 15, 20]
    assert [line for line in told() if line[3] == "twice"] == []
    best = max((n for n in range(1, trials + 1) if n not in NAN), key=expected)
    for machine in machines:  # each of which wrote a table of all
        results = json.loads((machine.disk / name / "results.json").read_text())
        assert [trial["trial"] for trial in results["trials"]] == list(range(1, trials + 1))
        assert results["best"] == best
        assert machine.processes("trial") == machine.processes("guard") == []


def finish(machines: list[Machine], name: str, seconds: float) -> None:
    """Lets the sweep come to its end. It has failed trials, so the status is 1."""
    end = time.monotonic() + seconds
    done: set[int] = set()
    while len(done) < len(machines):
        assert time.monotonic() < end
        for machine in machines:
            code = machine.runner.poll()
            if code == 1:
                done.add(machine.place)
            elif code is not None:
                machine.start("--resume", name)
        time.sleep(0.2)


@pytest.mark.parametrize("seed", [1])
def test_a_hundred_faults_of_all_kinds_leave_each_trial_with_its_figure(
    machines, postgresql, seed, record_property
):
    trials, wanted = 30, 100
    write_sweep(trials, seconds=0.6)
    three = machines(3)
    name = begin(three)
    kinds = faults(postgresql)
    draw, hit, order = random.Random(seed), Counter(), []
    end = time.monotonic() + 20 * wanted
    while hit.total() < wanted:
        assert time.monotonic() < end, hit
        go_on(three, name)
        time.sleep(draw.uniform(0.2, 1.2))
        order = order or draw.sample(sorted(kinds), len(kinds))
        kind = order[-1]
        board = find_sweep(str(three[0].disk / name), three[0].disk).storage.read()
        final = [trial for trial in board.trials if trial.state in ("finished", "failed")]
        assert len(final) < trials, f"the sweep was too short: {hit}"
        if kinds[kind](draw.choice(three)):
            hit[order.pop()] += 1
    for machine in three:
        machine.link("up")
        machine.make_room()
    finish(three, name, 300)
    require_right(three, name, trials, postgresql.address)
    record_property("faults", dict(hit))
    record_property("steps trained again, and in all", trained_again(told()))


def trained_again(lines: list[tuple[float, int, int, str]]) -> tuple[int, int]:
    """How many steps were trained more than once, and how many there are."""
    steps = [(trial, word) for _, _, trial, word in lines]
    return len(steps) - len(set(steps)), len(set(steps))


def longest_wait(trial: int, since: float) -> float:
    """Seconds in which a trial came no step further than it ever was, since a time."""
    first: dict[str, float] = {}
    for when, _, number, word in told():
        if number == trial:
            first.setdefault(word, when)
    times = [since, *(when for when in sorted(first.values()) if when > since)]
    if len(first) < STEPS:  # it is still at work
        times.append(time.monotonic())
    return max((b - a for a, b in pairwise(times)), default=0.0)


def on_the_way(place: int) -> set[int]:
    """The trials of a machine that began a while ago and have a while to go."""
    recent = [line for line in told()[-8:] if line[1] == place]
    return {trial for _, _, trial, word in recent if STEPS // 10 < int(word) < STEPS // 2}


def test_what_each_fault_costs_alone(machines, postgresql, record_property):
    write_sweep(400, seconds=STEP)
    two = machines(2)
    name = begin(two)
    for kind, act in faults(postgresql).items():
        end = time.monotonic() + WINDOW
        while not (hit := on_the_way(place=1)):
            go_on(two, name)
            assert time.monotonic() < end
            time.sleep(0.2)
        before, began = len(told()), time.monotonic()
        assert act(two[0])
        while time.monotonic() < began + WINDOW:
            go_on(two, name)
            time.sleep(0.1)
        waited = max(longest_wait(trial, began) for trial in hit)
        assert waited < WINDOW - STEP, kind
        again = trained_again(told())[0] - trained_again(told()[:before])[0]
        waited = max(0.0, waited - STEP)
        record_property(kind, f"{again} steps again, {waited:.1f} s without a new one")
    assert [line for line in told() if line[3] == "twice"] == []
