"""The clock is set while a sweep runs: nothing is taken for dead, nothing runs twice."""

import json
import subprocess
import sys

SWEEP = """
method: grid
metric: {{name: AP}}
parameters: {{x: {{values: [1, 2, 3]}}}}
command: [{python}, trial.py]
"""
TRIAL = """
import os, pathlib, time
open("begun", "a").write("x")
time.sleep(1.5)
pathlib.Path(os.environ["GRIDCLIP_RUN_DIR"], "metrics.json").write_text('{"AP": 0.1}')
"""
# The system's start is what Linux moves when its clock is set: an hour on, and another, for the
# runner alone. Every process that psutil sees then seems to have begun at another time.
RUNNER = """
import sys, time, psutil._pslinux
real, began = psutil._pslinux.boot_time, time.monotonic()
def moved():
    return real() + 3600.0 * int((time.monotonic() - began) / 1.0)
psutil._pslinux.boot_time = psutil.boot_time = moved
from gridclip.cli import main
main(["sweep", "run", "sweep.yaml", "--dir", "out", "--jobs", "2"])
"""


def test_a_runner_whose_clock_is_set_runs_each_trial_once(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(python=sys.executable))
    (tmp_path / "trial.py").write_text(TRIAL)
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trials = [json.loads(file.read_text()) for file in tmp_path.glob("out/*/trials/*/trial.json")]
    assert sorted((each["state"], each["attempt"]) for each in trials) == [("finished", 1)] * 3
    assert (tmp_path / "begun").read_text() == "xxx"
