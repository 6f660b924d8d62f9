"""What bad input gets: one clear message, status 2, and nothing that looks finished."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image


def _refused(short_run, run_dir, capsys, *overrides):
    with pytest.raises(SystemExit) as stopped:
        short_run(run_dir, *overrides)
    assert stopped.value.code == 2
    assert not (run_dir / "metrics.json").exists()
    assert not (run_dir / "checkpoints").exists()
    return capsys.readouterr().err


DETECTOR = "--model.detector.init_args"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"{DETECTOR}.weights.imge=1", "weights.imge"),
        (f"{DETECTOR}.weights.image=-1.0", "weights.image"),
        (f"{DETECTOR}.weights.image=much", "weights.image"),
        (f"{DETECTOR}.image_distance=l3", "l3"),
        (f"{DETECTOR}.widht=96", "widht"),
        (f"{DETECTOR}.width=90", "width"),
        (f"{DETECTOR}.teacher.init_args.clip.name=RN5O", "RN50"),
        ("--data.init_args.rare_split=rare_only", "rare_split"),
        ("--data.init_args.batch_size=0", "batch_size"),
        ("--data.init_args.root=nowhere", "nowhere/train.json"),
        ("--model.optimizer.lr=-1.0", "lr"),
        ("--trainer.max_stepz=3", "max_stepz"),
        ("--model.init_from=nowhere.ckpt", "nowhere.ckpt"),
    ],
)
def test_a_mistake_is_named_before_training(short_run, tmp_path, capsys, override, message):
    assert message in _refused(short_run, tmp_path / "run", capsys, override)


def test_a_mistyped_key_stops_the_command_within_seconds(tmp_path):
    """As from a shell, imports included; the wall clock is left out, for busy machines."""
    started = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "gridclip", "fit", "--config=experiments/mini/gridclip.yaml"]
        + [f"--run_dir={tmp_path}", f"{DETECTOR}.weights.imge=1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    spent = os.times()
    assert done.returncode == 2
    assert "weights.imge" in done.stderr
    busy = spent.children_user + spent.children_system
    assert busy - started.children_user - started.children_system < 10


def _copy_of(mini_root, folder, change):
    """The mini data set with its training annotations changed; the images are linked."""
    (folder / "images").symlink_to(mini_root / "images")
    content = json.loads((mini_root / "train.json").read_text())
    change(content)
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "val.json").write_text((mini_root / "val.json").read_text())
    return f"--data.init_args.root={folder}"


def _outside(content):
    content["annotations"][3]["bbox"] = [120, 120, 60, 60]


def _unknown_category(content):
    content["annotations"][0]["category_id"] = 9999


def _zero_based(content):
    for each in content["categories"]:
        each["id"] -= 1
    for each in content["annotations"]:
        each["category_id"] -= 1


def _twice(content):
    content["categories"][1]["name"] = content["categories"][0]["name"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_outside, "bbox"),
        (_unknown_category, "9999"),
        (_zero_based, "categories"),
        (_twice, "name"),
        (lambda content: content.pop("images"), "images"),
        (lambda content: content["images"][0].update(file_name="gone.jpg"), "gone.jpg"),
    ],
)
def test_a_bad_annotation_file_is_named_with_its_field(
    short_run, mini_root, tmp_path, capsys, change, message
):
    root = _copy_of(mini_root, tmp_path, change)
    said = _refused(short_run, tmp_path / "run", capsys, root)
    assert message in said
    assert str(tmp_path) in said
    assert "fix:" in said


def test_an_image_of_another_size_than_its_annotations_is_named(
    short_run, mini_root, tmp_path, capsys
):
    content = json.loads((mini_root / "train.json").read_text())
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "val").symlink_to(mini_root / "images" / "val")
    for image in content["images"]:
        target = tmp_path / "images" / image["file_name"]
        target.symlink_to(mini_root / "images" / image["file_name"])
    wrong = tmp_path / "images" / content["images"][5]["file_name"]
    wrong.unlink()
    Image.new("RGB", (64, 64)).save(wrong)
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_text((mini_root / name).read_text())
    said = _refused(short_run, tmp_path / "run", capsys, f"--data.init_args.root={tmp_path}")
    assert wrong.name in said


def test_a_finished_run_is_not_trained_over(short_run, trained, capsys):
    before = (trained / "metrics.json").read_bytes()
    with pytest.raises(SystemExit):
        short_run(trained)
    assert "holds a finished run" in capsys.readouterr().err
    assert (trained / "metrics.json").read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(
    short_run, trained, tmp_path, capsys
):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    said = _refused(
        short_run,
        tmp_path / "run",
        capsys,
        f"{DETECTOR}.num_convs=3",
        f"--model.init_from={checkpoint}",
    )
    assert "checkpoint of another model" in said
    assert "head.embedding_tower" in said


def test_a_run_folder_that_is_none_is_refused(tmp_path):
    import gridclip
    from gridclip.io.errors import InputError

    with pytest.raises(InputError, match=r"config\.yaml"):
        gridclip.load(tmp_path)


def test_a_run_without_weights_is_refused(trained, tmp_path):
    import gridclip
    from gridclip.io.errors import InputError

    (tmp_path / "config.yaml").write_text((trained / "config.yaml").read_text())
    with pytest.raises(InputError, match=r"last\.ckpt"):
        gridclip.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match="another model"):
        gridclip.load(tmp_path)
