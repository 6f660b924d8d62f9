import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from gridclip.cli import main
from gridclip.io.errors import InputError
from gridclip.sweeps.running.command import run_sweep, sweep_status
from gridclip.sweeps.running.guard import MARK
from gridclip.sweeps.running.process import TrialProcess, read_exit
from gridclip.sweeps.storage.trial import Trial

# A training in five lines: it notes its environment, validates once, and leaves its figures.
PROGRAM = """
import json, os, sys, time
given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
run = os.environ["GRIDCLIP_RUN_DIR"] + "/"
json.dump(dict(os.environ), open(run + "env.json", "w"))
open(run + "history.jsonl", "a").write(json.dumps({"step": 1, "val/AP": 0.1, "val/lr": 7}) + "\\n")
{body}
figures = {"AP": 0.3, "APr": float(given["model.x"]) / 10, "APc": 0.25, "APf": None}
json.dump(figures, open(run + "metrics.json", "w"))
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Makes a sweep file whose program runs the given line, and says where it is."""
    monkeypatch.chdir(tmp_path)

    def make(body: str = "", **changes) -> Path:
        Path("train.py").write_text(PROGRAM.replace("{body}", body))
        config = {
            "method": "grid",
            "program": "train.py",
            "metric": {"name": "val/APr", "goal": "maximize"},
            "parameters": {"model.x": {"values": [1, 3, 2]}, "fixed": {"value": "f"}},
        }
        file = Path("small sweep.yaml")
        file.write_text(yaml.safe_dump(config | changes))
        return file

    return make


def only_sweep() -> Path:
    (folder,) = Path("runs/sweeps").iterdir()
    return folder


def records(folder: Path | None = None) -> list[dict]:
    files = sorted((folder or only_sweep()).glob("trials/*/trial.json"))
    return [json.loads(file.read_text()) for file in files]


def status_of(call) -> int:
    try:
        call()
    except SystemExit as end:
        return end.code
    return 0


def test_a_sweep_leaves_its_trials_and_names_the_best(sweep, capsys):
    file = sweep()
    run_sweep(file)
    folder = only_sweep()
    assert re.fullmatch(r"small-sweep-\d{8}-\d{6}", folder.name)
    assert (folder / "sweep.yaml").read_text() == file.read_text()
    trials = records(folder)
    assert [trial["parameters"] for trial in trials] == [
        {"fixed": "f", "model.x": x} for x in (1, 3, 2)
    ]
    assert {(trial["state"], trial["exit_code"]) for trial in trials} == {("finished", 0)}
    assert trials[0]["argv"][2:] == ["train.py", "--fixed=f", "--model.x=1"]
    assert all(trial["started"] <= trial["ended"] for trial in trials)
    said = capsys.readouterr().out
    assert "best val/APr: 30.0 %, trial 2 in runs/sweeps" in said
    assert re.search(r"│ +2 │ 3 │ 30.0 │ 30.0 │ 25.0 │ +– │ +0.0 │ finished │", said)
    assert not list(folder.rglob("*.part"))


def test_the_results_are_kept_for_programs(sweep):
    run_sweep(sweep(), seed=4)
    folder = only_sweep()
    results = json.loads((folder / "results.json").read_text())
    assert (results["best"], results["seed"], results["method"]) == (2, 4, "grid")
    assert results["trials"][1]["metrics"] == {"AP": 0.3, "APr": 0.3, "APc": 0.25}
    assert (folder / results["trials"][1]["folder"] / "metrics.json").exists()
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert [row["model.x"] for row in rows] == ["1", "3", "2"]
    assert [row["APr"] for row in rows] == ["0.1", "0.3", "0.2"]
    assert rows[0].keys() == {
        *("trial", "state", "model.x", "AP", "APr", "APc", "APf"),
        *("minutes", "exit_code", "folder"),
    }


def test_a_trial_inherits_what_it_needs_and_no_sweep_of_wandb(sweep, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "theirs")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "theirs")
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    monkeypatch.setenv("GRIDCLIP_RUN_DIR", "theirs")
    monkeypatch.setenv("KEPT", "yes")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_sweep(sweep(project="p", entity="e"))
    folder = only_sweep().absolute()
    environments = [json.loads(file.read_text()) for file in sorted(folder.rglob("env.json"))]
    first = environments[0]
    assert first["GRIDCLIP_RUN_DIR"] == first["WANDB_DIR"] == str(folder / "trials" / "001")
    assert (first["WANDB_MODE"], first["WANDB_RUN_GROUP"]) == ("offline", folder.name)
    assert (first["WANDB_PROJECT"], first["WANDB_ENTITY"], first["KEPT"]) == ("p", "e", "yes")
    assert not {"WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "OMP_NUM_THREADS"} & first.keys()
    assert len({environment["WANDB_RUN_ID"] for environment in environments}) == 3
    assert records()[0]["run_id"] == first["WANDB_RUN_ID"]


def test_jobs_run_side_by_side_and_share_the_cores(sweep, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    meet = 'open(run + "../" + given["model.x"], "w")\n' + (
        'while len([name for name in os.listdir(run + "..") if len(name) == 1]) < 3: pass'
    )
    run_sweep(sweep(meet), jobs=3)  # each waits for the others: one after another would never end
    cores = len(os.sched_getaffinity(0))
    environments = [json.loads(file.read_text()) for file in only_sweep().rglob("env.json")]
    assert {e["OMP_NUM_THREADS"] for e in environments} == {str(max(1, cores // 3))}


def test_a_crash_is_recorded_and_the_others_go_on(sweep, capsys):
    file = sweep('if given["model.x"] == "3": print("loading"); raise MemoryError("no room")')
    assert status_of(lambda: run_sweep(file)) == 1
    states = [(trial["state"], trial["exit_code"], trial["reason"]) for trial in records()]
    assert states == [("finished", 0, ""), ("failed", 1, "exit code 1"), ("finished", 0, "")]
    said = capsys.readouterr().out
    assert "trial 2 failed: exit code 1, see runs/sweeps" in said
    assert said.index("loading") < said.index("MemoryError: no room")
    assert "best val/APr: 20.0 %, trial 3" in said
    assert "MemoryError" in (only_sweep() / "trials" / "002" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit(0)", "exit code 0, but no complete metrics.json"),
        ('open(run + "metrics.json", "w").write("{"); sys.exit(0)', "no complete metrics.json"),
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL, out of memory? (3 times)"),
        ("os.abort()", "killed by SIGABRT"),
    ],
)
def test_a_trial_without_result_is_failed_with_its_reason(sweep, body, reason, capsys):
    file = sweep(body, parameters={"model.x": {"value": 1}})
    assert status_of(lambda: run_sweep(file)) == 1
    (trial,) = records()
    assert trial["state"] == "failed"
    assert reason in trial["reason"]
    assert (
        "no finished trial has the metric val/APr, so none is the best" in capsys.readouterr().out
    )


def test_a_secret_reaches_the_trial_and_nothing_that_is_kept_or_shown(sweep, monkeypatch, capsys):
    monkeypatch.setenv("TOKEN_OF_MINE", "hush-4711")
    body = 'assert given["token"] == "hush-4711"\nif given["model.x"] == "3": sys.exit(3)'
    program = [sys.executable, "train.py", "--token=${envvar:TOKEN_OF_MINE}", "${args}"]
    file = sweep(body, command=program)
    assert status_of(lambda: run_sweep(file)) == 1
    assert [trial["state"] for trial in records()] == ["finished", "failed", "finished"]
    assert records()[0]["argv"][2] == "--token=${envvar:TOKEN_OF_MINE}"
    told = capsys.readouterr()
    sweep_status("latest")
    told = told.out + told.err + capsys.readouterr().out
    assert "hush-4711" not in told
    holders = [
        path.relative_to(only_sweep())
        for path in only_sweep().rglob("*")
        if path.is_file() and path.name != "env.json" and b"hush-4711" in path.read_bytes()
    ]
    assert holders == []


def test_a_program_that_does_not_exist_fails_its_trials(sweep):
    file = sweep(command=["/no/such/program", "${args}"])
    assert status_of(lambda: run_sweep(file)) == 1
    assert all("can't start" in trial["reason"] for trial in records())


def test_a_secret_in_the_name_of_a_program_that_is_not_there_is_not_told(
    sweep, monkeypatch, capsys
):
    monkeypatch.setenv("TOKEN_OF_MINE", "hush-4711")
    file = sweep(command=["/no/${envvar:TOKEN_OF_MINE}/train", "${args}"])
    assert status_of(lambda: run_sweep(file)) == 1
    told = capsys.readouterr()
    assert "can't start" in told.out + told.err
    assert "hush-4711" not in told.out + told.err
    files = [path for path in only_sweep().rglob("*") if path.is_file()]
    assert [path for path in files if b"hush-4711" in path.read_bytes()] == []


def test_figures_beside_a_bad_exit_do_not_make_a_trial_finished(sweep):
    file = sweep(
        'json.dump({"AP": 1}, open(run + "metrics.json", "w")); sys.exit(1)',
        parameters={"model.x": {"value": 1}},
    )
    assert status_of(lambda: run_sweep(file)) == 1
    assert json.loads((only_sweep() / "results.json").read_text())["best"] is None


def test_a_metric_the_figures_lack_is_taken_from_the_history(sweep, capsys):
    run_sweep(sweep(metric={"name": "val/lr", "goal": "minimize"}))
    assert "best val/lr: 7, trial 1 in" in capsys.readouterr().out


@pytest.mark.field
def test_a_metric_nobody_logs_fails_the_trials_and_is_named_when_the_first_ends(sweep, capsys):
    assert status_of(lambda: run_sweep(sweep(metric={"name": "val/nothing"}))) == 1
    assert {trial["state"] for trial in records()} == {"failed"}
    before_the_second = capsys.readouterr().out.split("trial 2/3 started")[0]
    reason = "there is no metric val/nothing; metrics.json has AP, APc, APr"
    assert f"trial 1/3 failed (exit code 0, but {reason}" in before_the_second


@pytest.mark.field
@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("実験", "実験-"),
        ("हिन्दी प्रयोग", "हिन्दी-प्रयोग-"),
        ("-x", "x-"),
        ("../a/b: c", "a-b-c-"),
        ("...", "sweep-"),
        ("🚀", "sweep-"),
        ("é" * 300, "é" * 50 + "-"),
    ],
)
def test_a_sweep_of_any_name_is_found_again_by_its_id(sweep, name, begin, capsys):
    run_sweep(sweep(name=name, parameters={"model.x": {"values": [1]}}))
    folder = only_sweep()
    assert folder.name.startswith(begin)
    main(["sweep", "status", folder.name])
    assert f"{folder.name}: 1 finished" in capsys.readouterr().out


@pytest.mark.field
def test_a_sweep_over_infinity_has_its_page_goes_on_and_leaves_json(sweep, capsys):
    body = 'given["model.x"] = 1'
    values = {"values": [math.inf, -math.inf, math.nan, None]}
    file = sweep(body, parameters={"model.x": values})
    run_sweep(file)
    folder = only_sweep()
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    text = (folder / "results.json").read_text()
    trials = json.loads(text, parse_constant=lambda word: pytest.fail(word))["trials"]
    assert [each["parameters"]["model.x"] for each in trials] == ["inf", "-inf", "nan", None]
    assert [trial["argv"][-1] for trial in records()] == [
        *("--model.x=inf", "--model.x=-inf", "--model.x=nan", "--model.x=None")
    ]
    run_sweep(file, resume="latest")  # nan is what it was
    assert len(records()) == 4


def test_a_log_gets_a_line_for_each_event_and_the_time_left(sweep, capsys):
    run_sweep(sweep("time.sleep(3)"), cap=2)
    said = capsys.readouterr().out
    assert said.startswith("small sweep: 2 trials by grid search, in runs/sweeps/small-sweep-")
    assert "trial 1/2 started: x=1\ntrial 1/2 validated: AP 10.0\n" in said
    assert re.search(
        r"trial 1/2 finished after [3-9] s: AP 30.0, APr 10.0, .*; about [3-9] s left", said
    )


def test_no_more_trials_than_the_file_or_the_command_allows(sweep):
    run_sweep(sweep(run_cap=2), cap=5, dir=Path("by-file"))
    run_sweep(sweep(run_cap=2), cap=1, dir=Path("by-command"))
    assert len(list(Path("by-file").rglob("trial.json"))) == 2
    assert len(list(Path("by-command").rglob("trial.json"))) == 1


def test_a_target_ends_the_sweep(sweep):
    run_sweep(sweep(metric={"name": "val/APr", "goal": "maximize", "target": 0.3}))
    assert [trial["parameters"]["model.x"] for trial in records()] == [1, 3]


def test_a_random_sweep_repeats_with_its_seed(sweep):
    file = sweep(method="random", run_cap=3, parameters={"model.x": {"min": 0.0, "max": 1.0}})
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_sweep(file, seed=seed, dir=Path(folder))
    a, b, c = (
        [trial["parameters"]["model.x"] for trial in records(next(Path(folder).iterdir()))]
        for folder in "abc"
    )
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({"method": "custom"}, {}, "custom"),
        ({"method": "random"}, {}, "a random search has no end"),
        ({}, {"jobs": 0}, "--jobs: 0 is out of range"),
        ({}, {"cap": 0}, "--cap: 0 is out of range"),
        ({}, {"dir": Path("train.py/x")}, "--dir: .*Not a directory"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(sweep, changes, arguments, said):
    with pytest.raises(InputError, match=said):
        run_sweep(sweep(**changes), **arguments)
    assert not Path("runs").exists()


def test_a_page_that_cannot_be_written_does_not_fail_the_sweep(sweep, monkeypatch, capsys):
    monkeypatch.setattr("gridclip.sweeps.results.report.SCRIPTS", ("no-such-file.js",))
    run_sweep(sweep(), cap=1)
    assert "no report page: FileNotFoundError" in capsys.readouterr().out


def test_a_distribution_that_is_often_mistaken_is_pointed_out(sweep, capsys):
    distribution = {"distribution": "log_uniform", "min": 0.0, "max": 1.0}
    run_sweep(sweep(method="random", run_cap=1, parameters={"model.x": distribution}))
    assert "mind: model.x: min and max of log_uniform are exponents" in capsys.readouterr().out


def test_two_sweeps_of_one_second_have_folders_of_their_own(sweep):
    file = sweep(parameters={"model.x": {"value": 1}})
    for _ in range(3):
        run_sweep(file)
    assert len(list(Path("runs/sweeps").iterdir())) == 3


SWEEP = (
    # A hang-up counts here, though the tests themselves may have been started by nohup.
    "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "import sys; from pathlib import Path; from gridclip.sweeps.running.command import run_sweep; "
)


def background(file: Path, jobs: int = 2) -> subprocess.Popen[str]:
    """A sweep as a process of its own, all of whose first trials are at work."""
    code = SWEEP + f"run_sweep(Path({str(file)!r}), jobs={jobs})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while len(list(Path("runs").rglob("history.jsonl"))) < jobs:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_ends_all_trials_and_records_them(sweep, number):
    file = sweep('open(run + "pid", "w").write(str(os.getpid())); time.sleep(60)')
    process = background(file)
    time.sleep(0.3)
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert [(trial["state"], trial["exit_code"]) for trial in records()] == [
        ("interrupted", -15)
    ] * 2
    assert "trial 2 interrupted: the sweep was stopped" in said
    assert "go on: gridclip sweep run small sweep.yaml --resume small-sweep-" in said
    assert not any(is_alive(int(file.read_text())) for file in Path("runs").rglob("pid"))
    assert len(json.loads((only_sweep() / "results.json").read_text())["trials"]) == 2


def test_a_second_stop_kills_trials_that_do_not_listen(sweep):
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    process = background(sweep(deaf))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert [trial["exit_code"] for trial in records()] == [-9, -9]


def test_a_trial_that_ends_well_while_being_stopped_is_finished(sweep):
    polite = "import signal; signal.signal(15, lambda *_: None); signal.pause()"
    process = background(sweep(polite))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert [trial["state"] for trial in records()] == ["finished", "finished"]


def test_patience_ends_with_a_kill_of_all_that_a_trial_started(tmp_path):
    # The child is in a session of its own, as the ranks of torchrun are.
    code = (
        "import signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    trial = Trial(
        number=1,
        folder=tmp_path,
        point={},
        argv=(sys.executable, "-c", code),
        run_id="",
        started=datetime.now(UTC),
    )
    env = {**os.environ, MARK: str(tmp_path)}
    process = TrialProcess(trial, trial.argv, env, silence=60.0, patience=0.5)
    log = tmp_path / "log.txt"
    while not log.read_text().strip():
        time.sleep(0.05)
    process.end()
    began = time.monotonic()
    while not process.has_ended():
        time.sleep(0.02)
    assert 0.4 <= time.monotonic() - began < 5
    assert read_exit(trial) == (-9, "asked to end")
    assert not is_alive(int(log.read_text()))


def test_a_closed_pipe_leaves_no_trial_behind(sweep):
    file = sweep('open(run + "pid", "w").write(str(os.getpid())); time.sleep(60)')
    process = background(file)
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    assert [trial["state"] for trial in records()] == ["interrupted", "interrupted"]
    assert not any(is_alive(int(file.read_text())) for file in Path("runs").rglob("pid"))


def test_a_terminal_shows_a_live_table(sweep):
    import pty

    file = sweep("time.sleep(2.5)")
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        code = SWEEP + f"run_sweep(Path({str(file)!r}), cap=2)"
        os.execve(sys.executable, [sys.executable, "-c", code], environment)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other side has closed
            break
        if not part:
            break
        shown += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"│ +1 │ 1 │ +running │ +1 │ 10.0 │", text)
    assert re.search(r"1 of 2 trials done, about \d s left", text)
    assert "trial 1/3 started" not in text
    assert text.rstrip().splitlines()[-1].startswith("report: runs/sweeps/")
