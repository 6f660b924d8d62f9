"""A training goes on by its own checkpoint, or says why not; none is begun again over another."""

import shlex

import pytest

from gridclip.engine.going_on import (
    GO_ON_VARIABLE,
    checkpoint_of,
    is_restarted,
    refuse_other_processes,
    refuse_passing_folder,
    refuse_results,
)
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field

RESTARTS = ("TORCHELASTIC_MAX_RESTARTS", "SLURM_RESTART_COUNT", GO_ON_VARIABLE)


@pytest.fixture(autouse=True)
def _started_by_hand(monkeypatch):
    for name in RESTARTS:
        monkeypatch.delenv(name, raising=False)


def left(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


CUT_OFF = ("config.yaml", "history.jsonl", "checkpoints/last.ckpt")
FINISHED = (*CUT_OFF, "metrics.json", "categories.csv")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(
    ("names", "what"),
    [
        (FINISHED, "a finished run"),
        (CUT_OFF, "a training that was cut off"),
        (["history.jsonl"], "a training that was cut off"),
        (["metrics.json"], "a finished run"),
        (["detections.json"], "what another run left: detections.json"),
    ],
)
def test_no_command_mixes_its_results_with_those_of_another_run(tmp_path, command, names, what):
    folder = left(tmp_path / "run", *names)
    with pytest.raises(InputError, match=f"run_dir: this folder holds {what}") as caught:
        refuse_results(folder, command, checkpoint=None)
    assert "give another --run_dir" in str(caught.value)


def test_of_a_training_that_was_cut_off_the_command_that_goes_on_is_named(tmp_path):
    folder = left(tmp_path / "my run", *CUT_OFF)
    with pytest.raises(InputError) as caught:
        refuse_results(folder, "fit", checkpoint=None)
    line = str(caught.value).partition("go on with it: ")[2].splitlines()[0]
    words = shlex.split(line)
    assert words[:2] == ["gridclip", "fit"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given == {
        "--config": f"{folder}/config.yaml",
        "--ckpt_path": f"{folder}/checkpoints/last.ckpt",
        "--run_dir": str(folder),
    }
    refuse_results(folder, "fit", given["--ckpt_path"])  # which is let in


@pytest.mark.parametrize("names", [CUT_OFF, FINISHED])
def test_a_training_goes_on_by_its_own_checkpoint_and_by_no_other(tmp_path, names, monkeypatch):
    folder, other = left(tmp_path / "run", *names), left(tmp_path / "other", *CUT_OFF)
    refuse_results(folder, "fit", str(folder / "checkpoints/last.ckpt"))
    monkeypatch.chdir(folder)
    refuse_results(folder, "fit", "checkpoints/last.ckpt")
    refuse_results(tmp_path / "new", "fit", str(other / "checkpoints/last.ckpt"))
    with pytest.raises(InputError, match="this folder holds"):
        refuse_results(folder, "fit", str(other / "checkpoints/last.ckpt"))
    with pytest.raises(InputError, match="this folder holds"):
        refuse_results(folder, "validate", str(folder / "checkpoints/last.ckpt"))


def test_what_an_earlier_version_left_when_slurm_preempted_it_is_evaluated_by_nobody(tmp_path):
    folder = left(tmp_path / "run", *CUT_OFF, "hpc_ckpt_1.ckpt")
    for checkpoint in (None, str(folder / "checkpoints/last.ckpt")):
        with pytest.raises(InputError, match=r"hpc_ckpt_1\.ckpt") as caught:
            refuse_results(folder, "fit", checkpoint)
        assert "move it out of the folder, then go on: gridclip fit" in str(caught.value)


def test_what_broke_off_before_it_learnt_or_measured_anything_is_started_again(tmp_path):
    folder = left(tmp_path / "run", "config.yaml", "trial.json", "log.txt", ".claim")
    refuse_results(folder, "fit", checkpoint=None)
    with pytest.raises(InputError, match=r"what another run left: config\.yaml"):
        refuse_results(folder, "validate", checkpoint=None)


@pytest.mark.parametrize("name", RESTARTS)
def test_a_training_that_is_restarted_goes_on_by_itself(tmp_path, monkeypatch, name):
    folder = left(tmp_path / "run", *CUT_OFF)
    assert checkpoint_of(folder, None) is None  # and is refused
    monkeypatch.setenv(name, "0")
    assert not is_restarted()
    monkeypatch.setenv(name, "1")
    assert checkpoint_of(folder, None) == str(folder / "checkpoints/last.ckpt")
    assert checkpoint_of(folder, "another.ckpt") == "another.ckpt"
    assert checkpoint_of(tmp_path / "new", None) is None  # and begins


def test_last_is_the_checkpoint_of_the_folder_if_it_has_one(tmp_path):
    folder = left(tmp_path / "run", *CUT_OFF)
    assert checkpoint_of(folder, "last") == str(folder / "checkpoints/last.ckpt")
    assert checkpoint_of(tmp_path / "new", "last") is None


def test_torchrun_does_not_restart_a_training_in_another_folder_each_time(monkeypatch):
    refuse_passing_folder(None)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    refuse_passing_folder("runs/named")
    with pytest.raises(InputError, match="each restart would begin in a new folder"):
        refuse_passing_folder(None)


def test_another_number_of_processes_is_refused_with_the_step_the_images_and_the_commands(tmp_path):
    file = left(tmp_path / "my run", *CUT_OFF) / "checkpoints/last.ckpt"
    checkpoint = {
        "global_step": 14,
        "DetectionData": {"processes": 2, "seed": 0},
        "callbacks": {"LastCheckpoint": {"validates": None, "images": 112}},
    }
    refuse_other_processes(checkpoint, 2, file)
    refuse_other_processes({"state_dict": {}}, 3, file)  # of who knows how many
    with pytest.raises(InputError, match="by 2 processes at step 14, after 112 images") as caught:
        refuse_other_processes(checkpoint, 1, file)
    words = shlex.split(str(caught.value).partition("with its weights: ")[2])
    assert words[:2] == ["gridclip", "fit"]
    assert dict(zip(words[2::2], words[3::2], strict=True)) == {
        "--config": f"{tmp_path}/my run/config.yaml",
        "--model.init_from": str(file),
        "--run_dir": f"{tmp_path}/my run-1",
    }
