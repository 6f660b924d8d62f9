"""What a fault costs a training of one process: steps trained again, and seconds until it goes on.

They are properties in what `--junit-xml=times.xml -o junit_family=xunit1` writes, here and of two
machines in test_two_machines.py.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_disks import fill
from witnessed import environment, fit, history, last_weights, run_apart, seen

pytestmark = [pytest.mark.slow, pytest.mark.field]

STEPS = 18
PATIENCE = 300  # seconds
SHORT = [
    "--trainer.val_check_interval=6",
    "--trainer.max_epochs=2",
    "--trainer.limit_val_batches=2",
    "--data.init_args.num_workers=0",
    "--checkpoint_every_steps=2",
]


def start(words, **variables):
    """The training, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "gridclip", *words],
        env=environment() | variables,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def steps_seen(folder) -> int:
    return max((line["step"] for line in seen(folder)), default=0) if witness(folder) else 0


def witness(folder) -> bool:
    return (folder / "rank0.jsonl").exists()


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run_apart(fit(folder, mini_root, *SHORT))
    return folder


def require_same(whole, folder):
    assert {line["step"]: line for line in seen(folder)} == {
        line["step"]: line for line in seen(whole)
    }
    assert history(folder) == history(whole)
    (steps, weights), (again, others) = last_weights(whole), last_weights(folder)
    assert steps == again
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert (folder / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job of SLURM, whose scontrol writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    variables = {"JOB_ID": 77, "JOB_NAME": "train", "NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1}
    variables |= {"PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NODELIST": "localhost"}
    path = f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"
    return {f"SLURM_{name}": str(value) for name, value in variables.items()} | {"PATH": path}


@pytest.mark.parametrize(
    ("number", "status", "lost"),
    [(signal.SIGKILL, -9, 2), (signal.SIGTERM, 143, 0), (signal.SIGUSR1, 143, 0)],
    ids=["SIGKILL", "SIGTERM", "SIGUSR1"],
)
def test_a_signal_costs_at_most_the_steps_since_the_last_checkpoint(
    mini_root, whole, tmp_path, slurm, record_property, number, status, lost
):
    folder = tmp_path / "run"
    words = fit(folder, mini_root, *SHORT)
    requeued = number == signal.SIGUSR1
    variables = slurm if requeued else {}
    training = start(words, **variables)
    until(lambda: steps_seen(folder) >= 7)
    os.kill(training.pid, number)
    began = time.monotonic()
    assert training.wait(PATIENCE) == status
    record_property("seconds until it ended", round(time.monotonic() - began, 1))
    if requeued:  # SLURM runs the same command again
        assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
        variables = variables | {"SLURM_RESTART_COUNT": "1"}
    else:
        words = [*words, "--ckpt_path=last"]
    before, began = steps_seen(folder), time.monotonic()
    training = start(words, **variables)
    until(lambda: steps_seen(folder) > before)
    record_property("seconds until it went on", round(time.monotonic() - began, 1))
    assert training.wait(PATIENCE) == 0
    again = len(seen(folder)) - STEPS
    record_property("steps trained again", again)
    assert again <= lost
    require_same(whole, folder)


def test_a_disk_that_is_full_for_ten_seconds_ends_a_training_that_then_goes_on(
    mini_root, whole, tmp_path, small_disk, record_property
):
    disk = small_disk(megabytes=64)  # a checkpoint is of some ten
    folder, filling = disk / "run", disk / "filling"
    words = fit(folder, mini_root, *SHORT)
    training = start(words)
    until(lambda: (folder / "checkpoints" / "last.ckpt").exists())
    fill(filling)
    began = time.monotonic()
    assert training.wait(PATIENCE) != 0
    record_property("seconds until it ended", round(time.monotonic() - began, 1))
    time.sleep(max(0.0, 10 - (time.monotonic() - began)))
    filling.unlink()
    before, began = steps_seen(folder), time.monotonic()
    training = start([*words, "--ckpt_path=last"])
    until(lambda: steps_seen(folder) > before)
    record_property("seconds until it went on", round(time.monotonic() - began, 1))
    assert training.wait(PATIENCE) == 0
    again = len(seen(folder)) - STEPS
    record_property("steps trained again", again)
    assert again <= 2
    require_same(whole, folder)
