"""What a run folder holds is of one run: no command replaces or mixes what another left there."""

import json
import os
import shutil

import lightning
import pytest
import torch

from gridclip.cli import main
from gridclip.engine.run_claim import claim
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field

FIGURES = ("metrics.json", "history.jsonl", "categories.csv", "config.yaml")


@pytest.fixture
def finished(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "finished")


def contents(run):
    return {name: (run / name).read_bytes() for name in FIGURES if (run / name).exists()}


def refused(capsys, *command):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, command)])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_is_not_written_over_a_finished_run(finished, capsys, command):
    before = contents(finished)
    told = refused(
        capsys,
        command,
        f"--config={finished / 'config.yaml'}",
        f"--ckpt_path={finished / 'checkpoints/last.ckpt'}",
        f"--run_dir={finished}",
    )
    assert "this folder holds a finished run" in told
    assert contents(finished) == before
    assert not (finished / "detections.json").exists()


def test_a_training_that_was_cut_off_is_not_mixed_with_another(short_run, finished, capsys):
    (finished / "metrics.json").unlink()
    before = contents(finished)
    with pytest.raises(SystemExit):
        short_run(finished, "--seed_everything=2")
    told = capsys.readouterr().err
    assert "this folder holds a training that was cut off" in told
    assert f"--ckpt_path {finished / 'checkpoints/last.ckpt'}" in told
    assert contents(finished) == before


def test_a_folder_in_which_a_run_is_at_work_is_refused(short_run, tmp_path, capsys):
    lock = claim(tmp_path / "run")
    try:
        with pytest.raises(SystemExit):
            short_run(tmp_path / "run")
    finally:
        lock.release()
    assert "another run is writing into this folder" in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "run").iterdir()] == [".claim"]


@pytest.mark.slow
def test_a_finished_run_that_has_nothing_left_to_train_keeps_its_figures(short_run, finished):
    before = contents(finished)
    checkpoint = f"--ckpt_path={finished / 'checkpoints/last.ckpt'}"
    short_run(
        finished, checkpoint, "--trainer.limit_val_batches=1", "--data.init_args.val_batch_size=4"
    )
    after = contents(finished)
    assert after.pop("config.yaml") != before.pop("config.yaml")  # what was asked last
    assert after == before


class Breaks(lightning.Callback):
    """A fault in the first step."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        raise InputError("broken", fix="mend it")


def test_a_run_that_is_trained_further_is_not_finished_until_it_is(short_run, finished, capsys):
    """Its old figures would be those of other weights than the ones beside them."""
    checkpoint = f"--ckpt_path={finished / 'checkpoints/last.ckpt'}"
    breaks = f"--trainer.callbacks+={__name__}.Breaks"
    with pytest.raises(SystemExit):
        short_run(finished, checkpoint, breaks, "--trust", steps=9)
    assert "broken" in capsys.readouterr().err
    assert not (finished / "metrics.json").exists()
    lines = (finished / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_steps=-1", "--trainer.max_time=00:00:00:20"], "the training has no end"),
        (["--trainer.accelerator=tpu"], "trainer: "),
        (["--trainer.accelerator=nonsense"], "trainer: "),
        (["--run_dir=/proc/self/run"], "run_dir: cannot be written"),
    ],
)
def test_a_training_that_cannot_be_is_refused_in_a_line(
    short_run, tmp_path, capsys, options, message
):
    with pytest.raises(SystemExit) as ended:
        short_run(tmp_path / "run", *options)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert "fix: " in told
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_a_line(short_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        short_run(tmp_path / "run", "--trainer.accelerator=gpu")
    assert "trainer: No supported gpu backend" in capsys.readouterr().err
    assert os.environ.get("GRIDCLIP_RUN_DIR") is None
