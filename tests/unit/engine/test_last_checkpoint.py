"""There is always one whole checkpoint, of numbers, however the training ends."""

import errno
import os
import shutil
import signal
import subprocess
from contextlib import suppress

import lightning
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from gridclip.engine.clip_training.mini_clip import train_mini_clip
from gridclip.engine.divergence import StopAtNonFiniteLoss
from gridclip.engine.last_checkpoint import LastCheckpoint
from gridclip.engine.stop_requests import MARK, STOPPED, LeaveEvaluation, StopRequests
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field


class OneWeight(LightningModule):
    """Learns one number; at the step of a fault its loss is what the fault is."""

    def __init__(self, fault=None, step=2):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))
        self.fault, self.step = fault, step

    def training_step(self, batch, index):
        loss = (self.weight - batch.sum()).square().mean()
        if self.fault is not None and index + 1 == self.step:
            loss = loss * self.fault
        return {"loss": loss, "losses": {"grid": loss}}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class At(lightning.Callback):
    """Does something when a step begins."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx + 1 == self.step:
            self.act()


def train(folder, *callbacks, system=None, requests=None, every=1):
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[*callbacks, LastCheckpoint(folder / "checkpoints", every, requests)],
        default_root_dir=folder / "elsewhere",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if requests is not None:
        requests.listen_for(trainer)
    trainer.fit(system or OneWeight(), torch.utils.data.DataLoader(torch.ones(5, 1)))


def saved_step(folder):
    assert [each.name for each in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def test_it_takes_the_place_of_the_one_before_and_of_what_a_killed_process_left(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.ckpt.0a1b2c3d.part").write_bytes(b"half of one")
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"the one before")
    train(tmp_path)
    assert saved_step(tmp_path) == 5


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_fit_and_leaves_the_checkpoint_before(tmp_path, fault):
    system = OneWeight(fault, step=3)
    with pytest.raises(InputError, match=rf"not finite at step 3: grid {fault:g}"):
        train(tmp_path, StopAtNonFiniteLoss(), system=system)
    assert saved_step(tmp_path) == 2


def test_weights_that_are_no_numbers_are_not_saved_whatever_the_loss_says(tmp_path):
    system = OneWeight()
    break_one = At(4, lambda: system.weight.data[7:8].fill_(float("nan")))
    with pytest.raises(InputError, match="1 weights are not finite at step 4, first: weight"):
        train(tmp_path, break_one, system=system)
    assert saved_step(tmp_path) == 3


@pytest.mark.slow
def test_the_mini_clip_is_not_trained_on_from_a_loss_that_is_no_number(tmp_path):
    with pytest.raises(InputError, match="the loss is not finite at step"):
        train_mini_clip(tmp_path, steps=4, learning_rate=1e30)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("act", ["removed", "replaced"])
def test_a_run_folder_that_is_gone_ends_the_training_and_is_not_made_again(tmp_path, act):
    folder = tmp_path / "run"
    folder.mkdir()

    def lose():
        folder.rename(tmp_path / "moved") if act == "replaced" else shutil.rmtree(folder)
        if act == "replaced":
            folder.mkdir()

    with pytest.raises(InputError, match="the run folder was removed, or another stands"):
        train(folder, At(3, lose))
    assert not (folder / "checkpoints").exists()


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk may be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_the_training_with_its_error_and_leaves_the_checkpoint_before(small_disk):
    def fill():
        with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        train(small_disk, At(3, fill))
    assert caught.value.filename == str(small_disk / "checkpoints" / "last.ckpt")
    assert saved_step(small_disk) == 2


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job of a SLURM array, whose scontrol writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=":")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.delenv(MARK, raising=False)
    return tmp_path / "asked"


def ask(number):
    return At(3, lambda: os.kill(os.getpid(), number))


def stop(folder, number, **settings):
    """A training that is sent a signal in its third step, and what SLURM is asked."""
    requests = StopRequests(**settings)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)}
    with pytest.raises(SystemExit) as ended:
        train(folder, ask(number), requests=requests, every=None)
    assert ended.value.code == STOPPED == 143
    assert saved_step(folder) == 3
    assert {each: signal.getsignal(each) for each in before} == before


def test_the_signal_before_the_end_of_a_job_saves_and_puts_it_into_the_queue(tmp_path, job):
    stop(tmp_path, signal.SIGUSR1)
    assert job.read_text() == "requeue 70_3\n"


def test_which_signal_does_so_is_a_setting(tmp_path, job):
    stop(tmp_path, signal.SIGUSR2, requeue="SIGUSR2")
    assert job.read_text() == "requeue 70_3\n"


@pytest.mark.parametrize(
    ("number", "trial", "goes_on"),
    [
        (signal.SIGTERM, None, True),  # scancel sends it
        (signal.SIGUSR1, "7", True),  # the sweep's runner decides about its job
        (signal.SIGUSR1, None, False),  # it would begin in another folder
    ],
)
def test_a_job_is_not_put_back_where_that_would_be_wrong(
    tmp_path, job, monkeypatch, number, trial, goes_on
):
    if trial:
        monkeypatch.setenv(MARK, trial)
    stop(tmp_path, number, goes_on=goes_on)
    assert not job.exists()


class Evaluated(OneWeight):
    def validation_step(self, batch, index):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_evaluation_that_is_asked_to_stop_ends_with_the_same_status(tmp_path):
    requests = StopRequests()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[LeaveEvaluation(requests)],
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    requests.listen_for(trainer)
    with pytest.raises(SystemExit) as ended:
        trainer.validate(Evaluated(), torch.utils.data.DataLoader(torch.ones(5, 1)))
    assert ended.value.code == STOPPED
