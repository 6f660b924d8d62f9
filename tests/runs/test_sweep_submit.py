"""A sweep by jobs of SLURM, whose programs are stood in for: array, preemption, scancel."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_programs
import yaml

from gridclip.io.errors import InputError
from gridclip.sweeps.running.submit import submit_sweep

pytest.importorskip("submitit")

PATIENCE = 120  # seconds

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
run = Path(os.environ["GRIDCLIP_RUN_DIR"])
x = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])["x"]
def save(*_):
    Path(f"saved-{x}").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
Path(f"began-{x}").touch()
(run / "gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
while Path("wait").exists() and not Path(f"saved-{x}").exists():
    time.sleep(0.05)
(run / "metrics.json").write_text(json.dumps({"APr": int(x) / 10}))
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with SLURM's programs on the path, and a sweep file of four trials."""
    monkeypatch.chdir(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun", "scontrol", "scancel"):
        text = Path(slurm_programs.__file__).read_text()
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("SLURM_STAND_IN", str(tmp_path))
    Path("train.py").write_text(PROGRAM)
    config = {
        "method": "grid",
        "program": "train.py",
        "metric": {"name": "APr", "goal": "maximize"},
        "parameters": {"x": {"values": [1, 2, 3, 4]}},
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def records() -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(Path().rglob("trials/*/trial.json"))]


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, [file.read_text() for file in Path().rglob("*log.*")]
        time.sleep(0.05)


def signal_job(job: str, name: str) -> None:
    subprocess.run([shutil.which("scancel"), job, "--signal", name], check=True)


def test_jobs_of_an_array_share_one_sweep_and_the_gpus_that_each_got(slurm, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    Path("wait").touch()
    submit_sweep(Path("sweep.yaml"), array=2, gpus=2, hours=3.0, sbatch="mem=8G, exclusive")
    until(lambda: len(list(slurm.glob("began-*"))) == 4)  # two jobs of two trials, all at once
    Path("wait").unlink()
    until(lambda: len(list(slurm.glob("ended-*"))) == 2)
    assert [file.read_text() for file in slurm.glob("ended-*")] == ["0", "0"]
    assert [(trial["state"], trial["attempt"]) for trial in records()] == [("finished", 1)] * 4
    assert sorted(file.read_text() for file in slurm.rglob("gpu")) == ["3", "3", "5", "5"]
    asked = Path("asked").read_text().split()
    wanted = {"--array=0-1%2", "--requeue", "--signal=USR2@120", "--time=180", "--mem=8G"}
    assert wanted | {"--exclusive", "--gpus-per-node=2"} <= set(asked)


def test_a_preempted_job_lets_its_trials_save_and_is_put_back_and_goes_on(slurm):
    Path("wait").touch()
    submit_sweep(Path("sweep.yaml"), jobs=4)
    until(lambda: len(list(slurm.glob("began-*"))) == 4)
    signal_job("100", "USR2")
    until(lambda: (slurm / "ended-100").exists())
    assert (slurm / "ended-100").read_text() == "0"
    assert len(list(slurm.glob("saved-*"))) == 4
    assert "scontrol requeue 100" in Path("asked").read_text()
    assert [(trial["state"], trial["attempt"]) for trial in records()] == [("finished", 2)] * 4


def test_a_cancelled_job_lets_its_trials_save_and_is_not_put_back(slurm):
    Path("wait").touch()
    submit_sweep(Path("sweep.yaml"), jobs=4)
    until(lambda: len(list(slurm.glob("began-*"))) == 4)
    signal_job("100", "TERM")
    until(lambda: (slurm / "ended-100").exists())
    assert len(list(slurm.glob("saved-*"))) == 4
    assert "scontrol" not in Path("asked").read_text()
    assert [trial["state"] for trial in records()] == ["interrupted"] * 4


def test_the_same_jobs_run_on_this_machine(slurm):
    submit_sweep(Path("sweep.yaml"), array=2, cluster="local")
    until(lambda: [trial["state"] for trial in records()] == ["finished"] * 4)


def test_a_cap_holds_for_jobs_that_are_added_too(slurm):
    submit_sweep(Path("sweep.yaml"), cap=1, cluster="local")
    until(lambda: [trial["state"] for trial in records()] == ["finished"])
    submit_sweep(Path("sweep.yaml"), resume="latest", cap=3, cluster="local")
    until(lambda: [trial["state"] for trial in records()] == ["finished"] * 3)
    until(lambda: len(list(slurm.rglob("*_result.pkl"))) == 2)
    assert len(records()) == 3


def test_what_sbatch_refuses_is_told_with_the_way_to_go_on(slurm):
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(InputError, match="invalid partition") as refused:
        submit_sweep(Path("sweep.yaml"), sbatch="partition=nowhere")
    assert "--resume runs/sweeps/" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sbatch": "account="}, "no list of options"),
        ({"array": 0}, "--array"),
        ({"jobs": 0}, "--jobs"),
        ({"hours": 0.0}, "--hours"),
        ({"storage": "postgresql://me:secret@host/base"}, "password"),
    ],
)
def test_wrong_options_are_refused_before_a_sweep_is_made(slurm, options, problem):
    with pytest.raises(InputError, match=problem):
        submit_sweep(Path("sweep.yaml"), **options)
    assert not Path("runs").exists()
    assert not Path("asked").exists()


def test_without_slurm_the_way_to_try_is_told(slurm, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(InputError, match="SLURM is not here: no sbatch or srun") as refused:
        submit_sweep(Path("sweep.yaml"))
    assert "--cluster local" in str(refused.value)
