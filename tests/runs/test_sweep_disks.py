"""Sweeps on disks that fill up, lose the storage, or have no locks; and trials that go on."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_disks import fill
from witnessed import ROW

from gridclip.io.errors import InputError
from gridclip.sweeps.running.command import run_sweep

pytestmark = pytest.mark.field

PATIENCE = 300  # seconds

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
run = Path(os.environ["GRIDCLIP_RUN_DIR"])
with open("began", "a") as file:
    file.write(given["x"] + " ")
first = open("began").read().split().count(given["x"]) == 1
{body}
(run / "metrics.json").write_text(json.dumps({{"APr": int(given["x"]) / 10, "AP": 0.5}}))
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Makes a sweep of three trials whose program runs the given lines."""
    monkeypatch.chdir(tmp_path)

    def make(body: str, values=(1, 2, 3)) -> Path:
        Path("train.py").write_text(PROGRAM.format(body=body))
        config = {
            "method": "grid",
            "program": "train.py",
            "metric": {"name": "APr", "goal": "maximize"},
            "parameters": {"x": {"values": list(values)}},
        }
        Path("sweep.yaml").write_text(yaml.safe_dump(config))
        return Path("sweep.yaml")

    return make


def records(root: Path = Path("runs")) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(root.rglob("trials/*/trial.json"))]


def test_a_trial_that_found_a_disk_full_is_run_again(sweep):
    run_sweep(sweep('first and open("/dev/full", "w", buffering=1).write("x\\n")'))
    found = [(trial["state"], trial["attempt"]) for trial in records()]
    assert found == [("finished", 2)] * 3


def test_a_trial_that_finds_no_room_each_time_fails_in_the_end(sweep):
    with pytest.raises(SystemExit):
        run_sweep(sweep('open("/dev/full", "w", buffering=1).write("x\\n")', [1]), attempts=2)
    (trial,) = records()
    assert trial["state"] == "failed"
    assert "no room was left on a disk" in trial["reason"]
    assert Path("began").read_text() == "1 1 "


def test_a_runner_waits_while_its_disk_is_full_and_goes_on_once_there_is_room(sweep, small_disk):
    file, disk = sweep("time.sleep(0.2)"), small_disk(megabytes=8)
    words = ["sweep", "run", str(file), "--dir", str(disk)]
    with Path("output.txt").open("w") as output:
        runner = subprocess.Popen([sys.executable, "-m", "gridclip", *words], stdout=output)
    filling = disk / "filling"
    until(lambda: Path("began").exists())
    fill(filling)
    until(lambda: "waiting for room" in Path("output.txt").read_text())
    begun = Path("began").read_text()
    time.sleep(1.5)
    assert Path("began").read_text() == begun  # nothing is started on a full disk
    filling.unlink()
    assert runner.wait(PATIENCE) == 0
    assert [trial["state"] for trial in records(disk)] == ["finished"] * 3


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


LOSSES = {
    "journal": 'next(run.parents[1].glob("journal.jsonl")).unlink()',
    "journal_cut_short": 'next(run.parents[1].glob("journal.jsonl")).write_text("")',
    "folder": "import shutil; shutil.rmtree(run.parents[1])",
    "sqlite": 'Path("trials.sqlite").unlink()',
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_storage_that_is_deleted_ends_the_sweep_with_a_message_and_no_table(sweep, loss, capsys):
    storage = f"sqlite:///{Path('trials.sqlite').absolute()}" if loss == "sqlite" else None
    file = sweep(f"{LOSSES[loss]}\nrun.mkdir(parents=True, exist_ok=True)")
    with pytest.raises(InputError, match="was deleted"):
        run_sweep(file, storage=storage)
    assert Path("began").read_text() == "1 "
    assert "best" not in capsys.readouterr().out


def test_a_disk_without_locks_is_found_before_anything_is_made(sweep, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    file = sweep("")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match="no locks"):
        run_sweep(file)
    assert not list(Path("runs/sweeps").iterdir())


def test_a_disk_whose_locks_keep_nobody_out_is_found(sweep, monkeypatch):
    file = sweep("")
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(InputError, match="keep nobody out"):
        run_sweep(file)


def test_a_trial_that_left_a_checkpoint_is_told_to_go_on_in_its_folder(sweep):
    leaves = (
        '(run / "checkpoints").mkdir(exist_ok=True)\n'
        'notes = run / "notes"\n'
        'notes.write_text((notes.read_text() if notes.exists() else "")'
        ' + os.environ.get("GRIDCLIP_GO_ON", "0"))\n'
        'for name in ("config.yaml", "checkpoints/last.ckpt"):\n'
        '    (run / name).write_text("")\n'
        "first and os.kill(os.getpid(), signal.SIGKILL)"
    )
    run_sweep(sweep(leaves))
    assert [trial["attempt"] for trial in records()] == [2] * 3
    assert [file.read_text() for file in Path("runs").rglob("notes")] == ["01"] * 3


def test_without_a_checkpoint_a_trial_begins_anew(sweep):
    body = (
        '(run / "rest").touch() if first else None\nfirst and os.kill(os.getpid(), signal.SIGKILL)'
    )
    run_sweep(sweep(body, [1]))
    (rest,) = Path("runs").rglob("rest")
    assert "attempts" in rest.parts


def test_trials_share_the_gpus_that_are_named(sweep):
    body = '(run / "gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"]); time.sleep(1)'
    run_sweep(sweep(body, [1, 2, 3, 4]), gpus="2, GPU-5", per_gpu=2)
    gpus = [file.read_text() for file in Path("runs").rglob("gpu")]
    assert sorted(gpus) == ["2", "2", "GPU-5", "GPU-5"]
    begun = [trial["started"] for trial in records()]
    ended = [trial["ended"] for trial in records()]
    assert max(begun) < min(ended)  # four at once


@pytest.mark.parametrize("gpus", ["", "0,,1", "0,0"])
def test_gpus_that_are_named_wrongly_are_refused(sweep, gpus):
    with pytest.raises(InputError, match="names none, or one twice"):
        run_sweep(sweep(""), gpus=gpus)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_killed_training_of_a_sweep_ends_in_the_figures_of_one_that_nobody_killed(
    mini_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fixed = {
        "data.init_args.root": str(mini_root),
        "data.init_args.batch_size": 4,
        "model.detector.init_args.width": 16,
        "model.detector.init_args.num_convs": 1,
        "trainer.max_steps": 12,
        "trainer.val_check_interval": 12,
        "trainer.limit_val_batches": 2,
        "checkpoint_every_steps": 2,
    }
    sizes = '{"shortest": [64], "longest": 64}'
    command = [sys.executable, "-m", "gridclip", "fit", "--config", str(ROW), "${args}"]
    command += [f"--data.init_args.{name}={sizes}" for name in ("resize", "val_resize")]
    parameters = {name: {"value": value} for name, value in fixed.items()}
    parameters["model.optimizer.lr"] = {"values": [0.003]}
    content = {"method": "grid", "command": command, "parameters": parameters}
    content["metric"] = {"name": "AP", "goal": "maximize"}
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    figures = {}
    for name, kills in (("whole", False), ("killed", True)):
        words = ["sweep", "run", "sweep.yaml", "--dir", name]
        runner = subprocess.Popen([sys.executable, "-m", "gridclip", *words])
        if kills:
            until(lambda: list(Path("killed").rglob("last.ckpt")))
            (trial,) = records(Path("killed"))
            assert trial["attempt"] == 1
            (folder,) = Path("killed").glob("*/trials/*")
            kill_training(folder)
        assert runner.wait(PATIENCE) == 0
        (file,) = Path(name).rglob("metrics.json")
        figures[name] = json.loads(file.read_text())
    assert [trial["attempt"] for trial in records(Path("killed"))] == [2]
    assert figures["killed"] == figures["whole"]


def kill_training(folder: Path) -> None:
    """Kills the process whose environment names the folder and that is no guard."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            mine = str(folder.absolute()).encode() in (process / "environ").read_bytes()
        except OSError:
            continue
        if mine and b"fit" in words and b"gridclip" in words and b"guard" not in b" ".join(words):
            os.kill(int(process.name), signal.SIGKILL)
