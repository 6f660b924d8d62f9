"""A training that is asked to stop saves, says so by its status, and goes on as if never asked."""

import signal

import pytest
import torch
from witnessed import asking, fit, history, last_weights, seen

from gridclip.cli import main

EVERY = "--trainer.val_check_interval=3"  # validations at both ends of epochs of nine steps, too
SHORT = [EVERY, "--trainer.max_epochs=2", "--trainer.limit_val_batches=2"]


@pytest.fixture(scope="module")
def whole(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    main(fit(folder, mini_root, "--data.init_args.num_workers=0", *SHORT))
    return folder


def stopped(folder, root, *asks, status=143):
    with pytest.raises(SystemExit) as ended:
        main(fit(folder, root, "--data.init_args.num_workers=0", *SHORT, *asks))
    assert ended.value.code == status
    assert not (folder / "metrics.json").exists()
    return last_weights(folder)[0]


def require_same(whole, resumed):
    assert seen(resumed) == seen(whole)
    assert history(resumed) == history(whole)
    (steps, weights), (again, others) = last_weights(whole), last_weights(resumed)
    assert steps == again
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert (resumed / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "validating"),
    [(4, False), (6, False), (6, True), (9, False), (9, True), (18, False), (18, True)],
)
def test_sigterm_saves_the_step_and_the_training_goes_on_exactly(
    mini_root, whole, tmp_path, step, validating
):
    folder = tmp_path / "run"
    ask = asking(signal.SIGTERM, step, validating=validating)
    assert stopped(folder, mini_root, ask) == step
    main(fit(folder, mini_root, "--data.init_args.num_workers=0", *SHORT, "--ckpt_path=last"))
    require_same(whole, folder)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of SLURM, whose scontrol writes down what it is asked."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=":")
    variables = {"JOB_ID": 77, "JOB_NAME": "train", "NTASKS": 1, "NTASKS_PER_NODE": 1, "NNODES": 1}
    variables |= {"PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NODELIST": "localhost"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return tmp_path / "asked"


def test_a_requeued_job_goes_on_and_its_figures_are_of_the_weights_in_its_checkpoint(
    mini_root, whole, tmp_path, slurm, monkeypatch
):
    """The same command twice, as SLURM has it; the weights that were saved first are others."""
    folder = tmp_path / "run"
    assert stopped(folder, mini_root, asking(signal.SIGUSR1, 6, validating=True)) == 6
    assert slurm.read_text().split() == ["requeue", "77"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    main(fit(folder, mini_root, "--data.init_args.num_workers=0", *SHORT))
    require_same(whole, folder)


@pytest.mark.slow
def test_the_final_figures_are_those_that_an_evaluation_of_the_checkpoint_gives(
    mini_root, whole, tmp_path
):
    last = whole / "checkpoints" / "last.ckpt"
    words = fit(tmp_path / "again", mini_root, *SHORT, f"--ckpt_path={last}")
    words = ["validate", f"--config={whole / 'config.yaml'}", *words[2:]]
    main([word for word in words if "Witness" not in word])
    again, before = tmp_path / "again" / "metrics.json", whole / "metrics.json"
    assert again.read_bytes() == before.read_bytes()


@pytest.mark.slow
def test_a_training_that_diverges_ends_with_the_step_and_is_not_finished(
    mini_root, tmp_path, capsys
):
    folder = tmp_path / "run"
    diverges = ["--model.optimizer.lr=1e30", "--trainer.gradient_clip_val=null"]
    with pytest.raises(SystemExit) as ended:
        main(fit(folder, mini_root, "--data.init_args.num_workers=0", *SHORT, *diverges))
    assert ended.value.code == 2
    assert "the loss is not finite at step" in capsys.readouterr().err
    assert not (folder / "metrics.json").exists()
