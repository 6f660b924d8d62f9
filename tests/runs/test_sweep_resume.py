"""Sweeps that go on: after a kill, a stop, a silence, on another machine."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from filelock import FileLock

from gridclip.io.errors import InputError
from gridclip.sweeps.running.claims import next_attempt, this_runner
from gridclip.sweeps.running.command import (
    list_sweeps,
    run_sweep,
    stop_sweep,
    sweep_status,
    sweep_table,
)
from gridclip.sweeps.running.guard import MARK
from gridclip.sweeps.running.start import find_sweep

# A training in a few lines: it says that it began, validates, and leaves its figures.
PROGRAM = """
import json, os, sys, time
given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
x, run = int(given["x"]), os.environ["GRIDCLIP_RUN_DIR"] + "/"
open("began", "a").write(f"{x} ")
def validate(step, value):
    row = {"step": step, "time": 0.1 * step, "val/APr": value}
    open(run + "history.jsonl", "a").write(json.dumps(row) + "\\n")
{body}
json.dump({"APr": x / 10, "AP": 0.5}, open(run + "metrics.json", "w"))
"""
WAIT = 'validate(1, 0.1)\nwhile not os.path.exists("go"): time.sleep(0.02)'


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Makes a sweep file of three trials whose program runs the given lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")

    def make(body: str = "", **changes) -> Path:
        Path("train.py").write_text(PROGRAM.replace("{body}", body))
        config = {
            "name": "small",
            "method": "grid",
            "program": "train.py",
            "metric": {"name": "val/APr", "goal": "maximize"},
            "parameters": {"x": {"values": [1, 2, 3]}},
        }
        file = Path("small.yaml")
        file.write_text(yaml.safe_dump(config | changes))
        return file

    yield make
    for process in left_over(tmp_path):
        process.kill()


def left_over(folder: Path) -> list[psutil.Process]:
    """The processes of trials that write into this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if MARK in environment and environment.get("GRIDCLIP_RUN_DIR", "").startswith(str(folder)):
            found.append(process)
    return found


def background(*options: str, machine: str | None = None) -> subprocess.Popen[str]:
    """A runner as a process of its own; it may be made to think that it is on another machine."""
    faked = f"claims.this_machine = lambda: {machine!r};" if machine else ""
    code = (
        f"import sys; from gridclip.sweeps.running import claims; {faked}"
        "from gridclip.cli import main; main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", code, "sweep", "run", "small.yaml", *options]
    with Path(f"runner{len(list(Path().glob('runner*')))}.log").open("w") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, text=True)


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        logs = [file.read_text() for file in Path().glob("runner*.log")]
        assert time.monotonic() < deadline, "\n".join(logs)
        time.sleep(0.03)


def validated(many: int) -> bool:
    return len(list(Path("runs").rglob("trials/*/history.jsonl"))) >= many


def records() -> list[dict]:
    files = sorted(Path("runs").glob("sweeps/*/trials/*/trial.json"))
    return [json.loads(file.read_text()) for file in files]


def began() -> Counter[str]:
    return Counter(Path("began").read_text().split())


def status_of(call) -> int:
    try:
        call()
    except SystemExit as end:
        return end.code
    return 0


def test_a_killed_runner_takes_its_trials_along_and_another_goes_on(sweep, tmp_path):
    file = sweep(WAIT)
    runner = background("--jobs=2")
    until(lambda: validated(2))
    runner.kill()
    runner.wait()
    until(lambda: not left_over(tmp_path), 10)
    Path("go").touch()
    run_sweep(file, resume="latest")  # which need not wait: the runner was of this machine
    assert [(r["state"], r["attempt"], r["kills"]) for r in records()] == [
        ("finished", 2, 0),
        ("finished", 2, 0),
        ("finished", 1, 0),
    ]
    assert began() == {"1": 2, "2": 2, "3": 1}
    assert len(list(Path("runs").glob("sweeps/*/attempts/00[12]-1/log.txt"))) == 2


def test_an_orphan_without_runner_and_guard_is_ended_before_its_number_runs_again(sweep, tmp_path):
    alone = (
        'pids = open("pids").read().split() if os.path.exists("pids") else []\n'
        'stats = [f"/proc/{pid}/stat" for pid in pids if os.path.exists(f"/proc/{pid}")]\n'
        'if any(open(stat).read().split()[2] != "Z" for stat in stats): open("twice", "w")\n'
        'open("pids", "a").write(f"{os.getpid()} ")\n'
    )
    file = sweep(alone + WAIT)
    runner = background("--cap=1")
    until(lambda: validated(1))
    (orphan,) = [process for process in left_over(tmp_path) if is_training(process)]
    runner.send_signal(signal.SIGSTOP)  # or it would see to its guard's death
    for process in left_over(tmp_path):
        if process != orphan:
            process.kill()
    runner.kill()
    runner.wait()
    until(lambda: left_over(tmp_path) == [orphan])  # a moment passes before a zombie is gone
    Path("go").touch()
    orphan.suspend()  # or it would end by itself
    run_sweep(file, resume="latest", cap=1)
    assert began() == {"1": 2}
    assert not Path("twice").exists()
    assert left_over(tmp_path) == []


def test_what_was_interrupted_runs_again_and_what_is_done_does_not(sweep, capsys):
    file = sweep('if x > 1 and not os.path.exists("go"): validate(1, 0.1); time.sleep(60)')
    runner = background()
    until(lambda: validated(1))
    runner.send_signal(signal.SIGINT)
    assert runner.wait(30) == 130
    assert [r["state"] for r in records()] == ["finished", "interrupted"]
    Path("go").touch()
    run_sweep(file, resume="latest", jobs=2)
    assert [r["state"] for r in records()] == ["finished"] * 3
    assert began() == {"1": 1, "2": 2, "3": 1}
    assert "small: 3 trials by grid search, in runs/sweeps/small-" in capsys.readouterr().out
    run_sweep(file, resume="latest")  # nothing is left to do
    assert began().total() == 4


def test_a_result_that_nobody_saw_is_taken_and_not_made_again(sweep):
    file = sweep()
    assert background().wait(60) == 0
    (journal,) = Path("runs").rglob("journal.jsonl")
    lines = journal.read_text().splitlines()
    kept = [line for line in lines if '"number": 2, "state": "finished"' not in line]
    assert len(kept) == len(lines) - 1
    journal.write_text("\n".join(kept) + "\n")  # as if the runner had died before it wrote this
    run_sweep(file, resume="latest")
    assert began() == {"1": 1, "2": 1, "3": 1}
    results = json.loads(next(Path("runs").rglob("results.json")).read_text())
    assert [trial["metrics"]["APr"] for trial in results["trials"]] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"parameters": {"x": {"values": [1, 2, 4]}}},
            r"parameters.x.values was \[1, 2, 3\] and is \[1, 2, 4\]",
        ),
        ({"run_cap": 2}, "run_cap is new"),
        ({"metric": {"name": "val/APr"}}, "metric.goal is gone"),
    ],
)
def test_a_changed_file_is_refused_by_its_difference(sweep, changes, said):
    run_sweep(sweep(), cap=1)
    with pytest.raises(InputError, match=said):
        run_sweep(sweep(**changes), resume="latest")
    assert began().total() == 1


def test_another_seed_or_an_unknown_sweep_is_refused(sweep):
    file = sweep()
    run_sweep(file, cap=1, seed=3)
    with pytest.raises(InputError, match="began with seed 3, not 4"):
        run_sweep(file, resume="latest", seed=4)
    with pytest.raises(InputError, match="there is no sweep 'small-1'"):
        run_sweep(file, resume="small-1")
    run_sweep(file, resume="latest", cap=3)  # the same seed, and more trials than at first
    assert began() == {"1": 1, "2": 1, "3": 1}


def test_a_stop_reaches_all_runners_and_the_sweep_goes_on_later(sweep, capsys, tmp_path):
    file = sweep(WAIT)
    runners = [background()]
    until(lambda: validated(1))
    runners.append(background("--resume=latest", machine="another"))
    until(lambda: validated(2))
    sweep_status("latest")
    assert "2 running" in capsys.readouterr().out
    stop_sweep("latest")
    assert "asked 2 runners to stop on" in capsys.readouterr().out
    assert [runner.wait(30) for runner in runners] == [130, 130]
    assert not left_over(tmp_path)
    assert {r["state"] for r in records()} == {"stopped"}
    list_sweeps()
    assert "2 stopped" in capsys.readouterr().out
    Path("go").touch()
    run_sweep(file, resume="latest")
    assert [r["state"] for r in records()] == ["finished"] * 3


@pytest.mark.slow
def test_a_runner_of_another_machine_is_missed_after_its_lease(sweep, tmp_path):
    sweep(WAIT)
    far = background("--lease=4", machine="another")
    until(lambda: validated(1))
    near = background("--resume=latest", "--jobs=3")
    until(lambda: validated(3))
    far.kill()
    far.wait()
    killed = time.monotonic()
    until(lambda: began()["1"] == 2)
    assert time.monotonic() - killed > 2.5
    Path("go").touch()
    assert near.wait(60) == 0
    assert began() == {"1": 2, "2": 1, "3": 1}
    assert [r["state"] for r in records()] == ["finished"] * 3


def test_a_frozen_runner_loses_its_trial_before_another_starts_it(sweep, tmp_path):
    sweep(WAIT)
    frozen = background("--lease=5")
    until(lambda: validated(1))
    other = background("--resume=latest", "--jobs=3")
    until(lambda: validated(3))
    assert began() == {"1": 1, "2": 1, "3": 1}
    (mine,) = [p for p in left_over(tmp_path) if is_training(p) and "--x=1" in p.cmdline()]
    with FileLock(next(Path("runs").rglob(".journal.jsonl.lock"))):
        frozen.send_signal(signal.SIGSTOP)  # not while it has the lock, which it would keep
    mine.wait(20)  # its guard hears nothing
    assert began()["1"] == 1
    until(lambda: began()["1"] == 2)
    Path("go").touch()
    frozen.send_signal(signal.SIGCONT)
    assert (frozen.wait(60), other.wait(60)) == (0, 0)
    assert [r["state"] for r in records()] == ["finished"] * 3
    assert began() == {"1": 2, "2": 1, "3": 1}


def test_a_trial_that_another_runner_took_is_ended_here(sweep, tmp_path):
    sweep(WAIT)
    runner = background("--cap=1")
    until(lambda: validated(1))
    storage = find_sweep("latest", Path("runs/sweeps")).storage
    other = replace(this_runner(), id="other", machine="another")
    storage.join(other)
    until(lambda: storage.read().trials[0].history())  # no news is left that would be refused
    assert storage.claim(next_attempt(storage.read().trials[0], other))
    until(lambda: not left_over(tmp_path), 20)
    until(lambda: "taken over by another runner" in Path("runner0.log").read_text(), 20)
    runner.send_signal(signal.SIGINT)  # it waits for the other one's trial
    assert runner.wait(30) == 130
    (trial,) = storage.read().trials
    assert (trial.runner, trial.attempt, trial.state) == ("other", 2, "running")


def is_training(process: psutil.Process) -> bool:
    return not any(word.endswith("guard.py") for word in process.cmdline())


def test_a_trial_that_falls_behind_is_pruned(sweep, capsys):
    body = "for step in range(1, 60 if x == 1 else 2): validate(step, x / 10); time.sleep(0.25)"
    file = sweep(
        body,
        early_terminate={"type": "hyperband", "max_iter": 2, "s": 1, "eta": 2},
        parameters={"x": {"values": [9, 8, 1]}},
    )
    assert status_of(lambda: run_sweep(file)) == 0
    assert [r["state"] for r in records()] == ["finished", "finished", "pruned"]
    assert records()[2]["reason"] == "behind the others (hyperband)"
    assert "best val/APr: 90.0 %, trial 1" in capsys.readouterr().out


def test_a_trial_that_ends_with_nan_is_failed(sweep):
    figures = '{"APr": float("nan"), "AP": 0.5}'
    body = f'if x == 2: json.dump({figures}, open(run + "metrics.json", "w")); sys.exit()'
    assert status_of(lambda: run_sweep(sweep(body))) == 1
    assert [(r["state"], r["reason"]) for r in records()] == [
        ("finished", ""),
        ("failed", "exit code 0, but APr is no number: NaN"),
        ("finished", ""),
    ]


def test_a_trial_killed_once_is_tried_again_and_says_so(sweep):
    body = 'if x == 2 and not os.path.exists("go"): open("go", "w"); os.kill(os.getpid(), 9)'
    run_sweep(sweep(body))
    assert [(r["state"], r["kills"]) for r in records()] == [
        ("finished", 0),
        ("finished", 1),
        ("finished", 0),
    ]
    assert began() == {"1": 1, "2": 2, "3": 1}


def test_a_storage_that_is_away_for_a_while_is_waited_for(sweep, capsys):
    file = sweep("time.sleep(1.0)")

    def take_away() -> None:
        until(lambda: len(list(Path("runs").rglob("trial.json"))) == 1)
        (journal,) = Path("runs").rglob("journal.jsonl")
        journal.rename(journal.with_suffix(".away"))
        journal.mkdir()
        time.sleep(1.5)
        journal.rmdir()
        journal.with_suffix(".away").rename(journal)

    thief = threading.Thread(target=take_away)
    thief.start()
    run_sweep(file)
    thief.join()
    assert [r["state"] for r in records()] == ["finished"] * 3
    assert began() == {"1": 1, "2": 1, "3": 1}
    assert "the storage does not answer, trying again" in capsys.readouterr().out


def test_what_a_trial_leaves_running_is_ended_with_it(sweep, tmp_path):
    body = (
        'import subprocess; subprocess.Popen(["sleep", "60"], start_new_session=True); sys.exit(3)'
    )
    assert status_of(lambda: run_sweep(sweep(body))) == 1
    assert left_over(tmp_path) == []


def test_one_command_makes_the_table_over_seeds(sweep, capsys):
    file = sweep(
        'x += int(given["seed_everything"])',
        parameters={"x": {"values": [1, 4]}, "seed_everything": {"values": [0, 1, 2]}},
    )
    run_sweep(file, jobs=2)
    page = Path("docs/results.md")
    page.parent.mkdir()
    page.write_text("# Results\n\nkept\n")
    for _ in range(2):  # the second time it takes the place of the first
        sweep_table([Path("latest")], over="seed_everything", output=page)
    text = page.read_text()
    assert text.startswith("# Results\n\nkept\n")
    assert text.count("## small") == text.count("mean ± standard deviation") == 1
    assert "| x | AP | APr | APc | APf | trials |" in text
    assert "| 1 | 50.0 ± 0.0 | 20.0 ± 10.0 | – | – | 3 |" in text
    assert "| **4** | **50.0 ± 0.0** | **50.0 ± 10.0** | **–** | **–** | **3** |" in text
    with pytest.raises(InputError, match="'seed' is not swept"):
        sweep_table([Path("latest")], over="seed")


def test_a_database_tells_all_to_a_machine_without_the_folder(sweep, capsys):
    file = sweep("validate(1, x / 20)")
    address = "sqlite:///meeting.db"
    run_sweep(file, storage=address, cap=2)
    capsys.readouterr()
    far = {"dir": Path("far/away"), "storage": address}
    list_sweeps(**far)
    assert "2 finished" in capsys.readouterr().out
    sweep_status("latest", **far)
    assert "best val/APr: 20.0 %, trial 2" in capsys.readouterr().out
    sweep_table([Path("latest")], **far)
    assert "| 1 | 50.0 | 10.0 | – | – |" in capsys.readouterr().out
    run_sweep(file, resume="latest", cap=3, **far)
    assert began() == {"1": 1, "2": 1, "3": 1}
    sweep_status("latest")  # the first folder notes where its storage is
    assert "3 finished" in capsys.readouterr().out
    far_results = json.loads(next(Path("far").rglob("results.json")).read_text())
    assert [trial["metrics"]["APr"] for trial in far_results["trials"]] == [0.1, 0.2, 0.3]


def test_a_storage_that_does_not_answer_is_told_and_not_thrown(sweep):
    run_sweep(sweep(), cap=1)
    (journal,) = Path("runs").rglob("journal.jsonl")
    journal.unlink()
    journal.mkdir()
    with pytest.raises(InputError, match=r"--storage: .*Is a directory"):
        sweep_status("latest")


RANKS = """
import os, sys, time
import torch.distributed as dist
dist.init_process_group("gloo")
open(os.environ["GRIDCLIP_RUN_DIR"] + f"/rank{dist.get_rank()}", "w").close()
if dist.get_rank() == 0:
    dist.barrier()
    with open(os.environ["GRIDCLIP_RUN_DIR"] + "/history.jsonl", "w") as file:
        file.write('{"step": 1}\\\\n')
else:
    dist.barrier()
time.sleep(120)
"""


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_all_ranks_of_a_trial_end_with_it(sweep, tmp_path, how):
    """The ranks of torchrun are in sessions of their own, where no signal to a group finds them."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    sweep(command=["${interpreter}", *torchrun, "ranks.py", "${args}"])
    Path("ranks.py").write_text(RANKS.replace("\\\\n", "\\n"))
    runner = background("--cap=1")
    until(lambda: validated(1), 120)
    assert len([p for p in left_over(tmp_path) if "ranks.py" in p.cmdline()]) >= 3
    runner.send_signal(how)
    runner.wait(60)
    until(lambda: not left_over(tmp_path), 10)
    assert [r["state"] for r in records()] == ["interrupted" if how == signal.SIGINT else "running"]
