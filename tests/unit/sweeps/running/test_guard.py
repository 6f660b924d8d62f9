"""The program between a runner and a trial, run as it is."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from gridclip.sweeps.running import guard
from gridclip.sweeps.running.guard import MARK, kill_all, processes_of


@pytest.fixture
def guarded(tmp_path):
    """Starts a guard over some Python code; its standard input is the runner's pipe."""
    mark = str(tmp_path)

    def start(code: str, silence: float = 30.0, patience: float = 30.0) -> subprocess.Popen[bytes]:
        orders = [str(tmp_path / "exit.json"), "4", str(silence), str(patience)]
        return subprocess.Popen(
            [sys.executable, guard.__file__, *orders, sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: mark},
            cwd=tmp_path,
        )

    yield start
    kill_all(mark)


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b".")
    process.stdin.flush()


def said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def word(tmp_path) -> tuple[int | None, str]:
    content = json.loads((tmp_path / "exit.json").read_text())
    assert content["attempt"] == 4
    return content["exit_code"], content["cause"]


@pytest.mark.parametrize("code", [0, 3])
def test_it_leaves_the_exit_code_of_its_trial(guarded, tmp_path, code):
    process = guarded(f"import sys; sys.exit({code})")
    go(process)
    assert process.wait(20) == 0
    assert word(tmp_path) == (code, "")


def test_a_trial_begins_only_when_its_runner_says_so(guarded, tmp_path):
    process = guarded("open('began', 'w')")
    time.sleep(0.5)
    assert not (tmp_path / "began").exists()
    process.stdin.close()  # the runner died between claim and record
    assert process.wait(20) == 0
    assert not (tmp_path / "began").exists()
    assert not (tmp_path / "exit.json").exists()


def test_the_end_of_the_runner_is_the_end_of_the_trial(guarded, tmp_path):
    process = guarded(
        "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n" * 1
        + "import time; time.sleep(60)"
    )
    go(process)
    assert said(process) == b"1"
    process.stdin.close()
    assert process.wait(20) == 0
    assert word(tmp_path) == (-9, "the runner is gone")
    assert processes_of(str(tmp_path)) == []


def test_a_silent_runner_loses_its_trial_and_one_that_speaks_does_not(guarded, tmp_path):
    process = guarded("import time; print(1, flush=True); time.sleep(60)", silence=1.5)
    go(process)
    assert said(process) == b"1"
    for _ in range(6):
        time.sleep(0.5)
        go(process)
    assert process.poll() is None
    assert process.wait(20) == 0
    assert word(tmp_path) == (-9, "the runner is silent")


def test_it_hands_a_request_to_end_to_the_trial(guarded, tmp_path):
    process = guarded("import time; print(1, flush=True); time.sleep(60)")
    go(process)
    assert said(process) == b"1"
    process.terminate()
    assert process.wait(20) == 0
    assert word(tmp_path) == (-15, "asked to end")


def test_what_a_crashed_trial_left_is_ended(guarded, tmp_path):
    code = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '60'], start_new_session=True);"
        "print(p.pid, flush=True); sys.exit(1)"
    )
    process = guarded(code)
    go(process)
    left = int(said(process))
    assert process.wait(20) == 0
    assert word(tmp_path) == (1, "")
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE


def test_what_a_finished_trial_still_uploads_has_time_for_it(guarded, tmp_path):
    late = "import time; time.sleep(1); open('uploaded', 'w')"
    process = guarded(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {late!r}])")
    go(process)
    assert process.wait(20) == 0
    assert (tmp_path / "uploaded").exists()


def test_a_program_that_is_not_there_is_told(guarded, tmp_path):
    orders = [str(tmp_path / "exit.json"), "4", "30", "30"]
    process = subprocess.Popen(
        [sys.executable, guard.__file__, *orders, "/no/such"], stdin=subprocess.PIPE
    )
    go(process)
    process.wait(20)
    code, cause = word(tmp_path)
    assert code is None
    assert cause.startswith("can't start: ")


def test_only_processes_with_the_very_mark_are_found(guarded, tmp_path):
    process = guarded("import time; print(1, flush=True); time.sleep(60)")
    go(process)
    said(process)
    assert processes_of(str(tmp_path) + "x") == []
    found = processes_of(str(tmp_path))
    assert {each.pid for each in found} > {process.pid}
    assert kill_all(str(tmp_path))
    assert processes_of(str(tmp_path)) == []
    assert process.wait(5) == -signal.SIGKILL
