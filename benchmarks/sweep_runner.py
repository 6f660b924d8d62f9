"""What does the runner of a sweep cost, and does that grow with the trials that are done?

A trial is a shell that writes its metrics.json. Counted is the CPU time of the runner's process,
not of guards and trials, from the end of the tenth trial to that of the last: in a new sweep with
two jobs, then in sweeps whose journal has thousands of trials already. So start and final table,
which come once, are left out. Each in a process of its own, in turn; minutes a turn.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import _timing
import yaml

from gridclip.io.tables import make_console
from gridclip.sweeps.results.progress import Progress
from gridclip.sweeps.running.claims import first_attempt, this_runner
from gridclip.sweeps.running.process import StopRequest
from gridclip.sweeps.running.runner import Sweep
from gridclip.sweeps.running.running_trial import Plan
from gridclip.sweeps.running.start import start_sweep
from gridclip.sweeps.search.search import make_search
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.protocol import SweepState
from gridclip.sweeps.storage.trial import Trial

EARLIER = (0, 1000, 10_000)  # trials that are done when it begins
BEFORE = 10  # trials that are run and not counted
GOAL = 0.01  # seconds a trial
WRITES = """echo '{"AP": 0.5}' > "$GRIDCLIP_RUN_DIR/metrics.json" """
CONTENT = {
    "method": "random",
    "metric": {"name": "AP", "goal": "maximize"},
    "command": ["/bin/sh", "-c", WRITES, "${args}"],
    "parameters": {name: {"min": 0.0, "max": 1.0} for name in ("x", "y")},
}


class Clock(Progress):
    """Notes the CPU time of this process whenever a trial has ended."""

    def __enter__(self) -> "Clock":
        self.times: list[float] = []
        super().__enter__()
        return self

    def ended(self, trial: Trial, state: SweepState) -> None:
        """As ever, and the time."""
        super().ended(trial, state)
        self.times.append(time.process_time())


def main() -> None:
    given = _timing.arguments(__doc__, trials=100)
    if given.memory:  # "3/1000": a run of this side alone
        trials, earlier = map(int, given.memory.split("/"))
        print(measure(trials, earlier))
        return
    trials = 10 if given.quick else given.trials
    counts = EARLIER[:2] if given.quick else EARLIER
    taken: dict[int, list[float]] = {earlier: [] for earlier in counts}
    for _ in range(given.rounds):
        for earlier in counts:
            taken[earlier].append(measured(trials, earlier))
    rows = [
        _timing.row(
            f"CPU of a runner over {trials} trials, {earlier} done: against {GOAL} s each",
            seconds,
            [GOAL * trials] * given.rounds,
            "≤ 1",
            faster=False,
        )
        for earlier, seconds in taken.items()
    ]
    last = counts[-1]
    question = f"the same, {last} done against none"
    rows.append(_timing.row(question, taken[last], taken[0], "≤ 1.2", faster=False))
    _timing.report(rows, given)


def measured(trials: int, earlier: int) -> float:
    """CPU seconds of the loop, in a process of its own."""
    command = [sys.executable, __file__, "--memory", f"{trials}/{earlier}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure(trials: int, earlier: int) -> float:
    """Runs trials of a sweep that has some already; returns the CPU seconds of this process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trivial.yaml"
        file.write_text(yaml.safe_dump(CONTENT), encoding="utf-8")
        spec = read_sweep(file)
        planned = earlier + BEFORE + trials
        stored = start_sweep(spec, Path(folder), None, seed=0, cap=planned, lease=120.0)
        search = make_search(spec)
        plan = Plan(
            info=stored.info,
            spec=spec,
            search=search,
            folder=stored.folder,
            jobs=2,
            planned=planned,
        )
        write_earlier(plan, earlier)
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            console = make_console()
            console.file = nowhere
            with Clock(console, spec, planned=planned, jobs=2) as progress:
                sweep = Sweep(plan, stored.storage, progress)
                sweep.run(StopRequest())
        finished = sum(trial.state == "finished" for trial in sweep.state.trials)
        assert finished == planned, f"{finished} of {planned} trials finished"
    return progress.times[-1] - progress.times[BEFORE - 1]


def write_earlier(plan: Plan, count: int) -> None:
    """Writes into the journal what trials that finished would have left there.

    All at once, for the journal itself waits for the disk with each line.
    """
    me = this_runner()
    with (plan.folder / "journal.jsonl").open("a", encoding="utf-8") as journal:
        for number in range(1, count + 1):
            point = plan.search.propose(number, ())
            assert point is not None
            trial: Trial = first_attempt(number, point, me, plan.folder)
            record = trial.record() | {
                "state": "finished",
                "exit_code": 0,
                "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "argv": ["/bin/sh", "-c", WRITES],
            }
            line = {"trial": record, "rows": [], "figures": {"AP": 0.5}}
            journal.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
