import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import gridclip
from gridclip.cli import main
from gridclip.evaluation.lvis import evaluate
from gridclip.io.errors import InputError
from gridclip.io.matches import read_matches

ROW = Path(__file__).parents[2] / "experiments" / "mini" / "gridclip.yaml"
FIGURES = {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"}


def _metrics(run):
    return json.loads((run / "metrics.json").read_text())


def test_a_training_leaves_recipe_weights_history_and_figures(trained):
    metrics = _metrics(trained)
    assert set(metrics) >= FIGURES
    assert metrics["protocol"] == "standard"
    assert metrics["num_images"] == 12
    lines = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[-1]["val/AP"] == metrics["AP"]
    recipe = yaml.safe_load((trained / "config.yaml").read_text())
    assert recipe["trainer"]["max_steps"] == 6
    assert list((trained / "pictures").glob("*.jpg"))


def test_a_training_leaves_which_boxes_are_right_from_which_its_ap_can_be_made(trained):
    matches = read_matches(trained / "metrics.matches.safetensors")
    figures = matches.figures(matches.precision())
    metrics = _metrics(trained)
    assert len(matches.image_ids) == 12
    for name in ("AP", "AP50", "APr", "AP_rare_shapes"):
        assert figures[name][0] == pytest.approx(metrics[name], abs=1e-9)


def test_checkpoints_hold_tensors_only_and_no_frozen_network(trained):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    names = set(checkpoint["state_dict"])
    assert all(name.startswith("detector.") for name in names)
    assert not [name for name in names if ".text." in name or ".teacher." in name]


def test_a_loaded_detector_finds_what_validation_found(trained, mini_root, tmp_path):
    """Through `gridclip.load`, image by image, to the same AP as in the training process."""
    detector = gridclip.load(trained)
    annotations = json.loads((mini_root / "val.json").read_text())
    ids = {each["name"]: each["id"] for each in annotations["categories"]}
    results = [
        {
            "image_id": image["id"],
            "category_id": ids[found.name],
            "bbox": [*found.box[:2], found.box[2] - found.box[0], found.box[3] - found.box[1]],
            "score": found.score,
        }
        for image in annotations["images"]
        for found in detector.detect(
            mini_root / "images" / image["file_name"], list(ids), threshold=0.0, limit=300
        )
    ]
    ours = evaluate(mini_root / "val.json", results, protocol="standard")
    assert ours.AP == pytest.approx(_metrics(trained)["AP"], abs=1e-4)
    assert ours.APr == pytest.approx(_metrics(trained)["APr"], abs=1e-4)


def test_any_form_of_an_image_gives_the_same_boxes(trained, mini_root):
    file = next((mini_root / "images").rglob("*.jpg"))
    detector, names = gridclip.load(trained), ["red striped star", "a thing nobody drew"]
    with Image.open(file) as image:
        forms = [file, str(file), image.copy(), np.asarray(image)]
    answers = [detector.detect(form, names, threshold=0.0) for form in forms]
    assert answers[0]
    assert all(answer == answers[0] for answer in answers)
    assert {found.name for found in answers[0]} <= set(names)


def test_detect_writes_boxes_and_drawn_images(trained, mini_root, tmp_path):
    images = sorted((mini_root / "images").rglob("*.jpg"))[:2]
    main(
        ["detect", "--run", str(trained), "--names", "red plain circle, blue striped square"]
        + ["--threshold", "0.0", "--output", str(tmp_path), *map(str, images)]
    )
    found = json.loads((tmp_path / "detections.json").read_text())
    assert set(found) == {str(image) for image in images}
    assert {"name", "score", "box"} == set(found[str(images[0])][0])
    drawn = Image.open(tmp_path / f"{images[0].stem}-detected.jpg")
    assert drawn.size == (512, 512)  # enlarged four times, so that the words can be read


def test_a_subset_of_the_images_is_scored_on_that_subset_only(trained, mini_root, tmp_path):
    main(
        ["validate", f"--config={trained / 'config.yaml'}", f"--run_dir={tmp_path}"]
        + [f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"]
        + ["--data.init_args.val_batch_size=2", "--trainer.limit_val_batches=2"]
    )
    assert _metrics(tmp_path)["num_images"] == 4
    asked = yaml.safe_load((tmp_path / "evaluated.yaml").read_text())
    assert asked["ckpt_path"] == str(
        trained / "checkpoints" / "last.ckpt"
    )  # whose figures these are
    assert not (tmp_path / "config.yaml").exists()


def test_a_finished_run_is_evaluated_and_used_by_the_other_score(trained, tmp_path):
    config, checkpoint = trained / "config.yaml", trained / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint)["state_dict"]["detector.score_scale.value"] != 1
    main(
        ["validate", f"--config={config}", f"--run_dir={tmp_path / 'figures'}"]
        + [f"--ckpt_path={checkpoint}", "--trainer.limit_val_batches=1"]
        + ["--model.detector.init_args.decoding.score=independent"]
    )
    assert set(_metrics(tmp_path / "figures")) >= FIGURES
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    recipe = yaml.safe_load(config.read_text())
    recipe["model"]["detector"]["init_args"]["decoding"]["score"] = "independent"
    (other / "config.yaml").write_text(yaml.safe_dump(recipe))
    grey, names = np.full((128, 128, 3), 99, np.uint8), ["red plain circle", "blue striped square"]
    competing, plain = (
        gridclip.load(run).detect(grey, names, threshold=0.0) for run in (trained, other)
    )
    assert [each.score for each in plain] != [each.score for each in competing]


@pytest.mark.slow  # test_resume.py has the harder case, a killed one
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(short_run, tmp_path):
    """To the last bit: two epochs at once, against one and then another from its checkpoint."""
    constant = ("--model.optimizer.schedule=constant", "--model.optimizer.warmup=0.0")
    whole = short_run(tmp_path / "whole", *constant, steps=12)
    half = short_run(tmp_path / "half", *constant, steps=6)
    resume = f"--ckpt_path={half / 'checkpoints' / 'last.ckpt'}"
    resumed = short_run(tmp_path / "resumed", *constant, resume, steps=12)
    one, two = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, resumed)
    )
    assert one["global_step"] == two["global_step"] == 12
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, two["state_dict"][name]), name


def test_a_warm_start_takes_the_weights_and_not_the_settings(short_run, trained, tmp_path):
    checkpoint = Path(shutil.copy(trained / "checkpoints" / "last.ckpt", tmp_path))
    run = short_run(
        tmp_path / "warm", f"--model.init_from={checkpoint}", "--model.optimizer.lr=0.0", steps=1
    )
    first = torch.load(checkpoint, weights_only=True)["state_dict"]
    after = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert after["global_step"] == 1
    assert after["state_dict"].keys() == first.keys()
    for name, tensor in after["state_dict"].items():
        # At a rate of zero nothing moves but the scale of scores, which no gradient fits.
        assert torch.equal(tensor, first[name]) or "score_scale" in name, name
    checkpoint.unlink()
    gridclip.load(run)  # what it started from is not needed any more


def test_two_processes_train_and_evaluate_every_image_once(mini_root, tmp_path):
    """As a user starts it: Lightning starts the second process from the same command line."""
    subprocess.run(
        [sys.executable, "-m", "gridclip", "fit", f"--config={ROW}", f"--run_dir={tmp_path}"]
        + [f"--data.init_args.root={mini_root}", "--data.init_args.val_batch_size=5"]
        + ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=2"]
        + ["--trainer.logger=false", "--trainer.enable_progress_bar=false"],
        check=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    assert _metrics(tmp_path)["num_images"] == 12
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2


@pytest.mark.slow  # what test_resume.py compares is the same only if this is
def test_the_same_seed_gives_the_same_weights(short_run, trained, tmp_path):
    again = short_run(tmp_path / "again")
    one, two = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (trained, again)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_weights_are_refused_beside_other_text_vectors(trained, tmp_path):
    """The text tower is not in the checkpoint, so nothing else would notice."""
    shutil.copytree(trained, tmp_path / "run")
    recipe = (tmp_path / "run" / "config.yaml").read_text()
    assert "a photo of a {}" in recipe
    changed = recipe.replace("a photo of a {}", "a drawing of a {}")
    (tmp_path / "run" / "config.yaml").write_text(changed)
    with pytest.raises(InputError, match="other text vectors"):
        gridclip.load(tmp_path / "run")


def test_a_recipe_used_again_does_not_write_into_its_first_folder(trained):
    assert yaml.safe_load((trained / "config.yaml").read_text())["run_dir"] is None
    assert "GRIDCLIP_RUN_DIR" not in os.environ


class StopsEarly(lightning.Callback):
    """A fault in the middle of training."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        raise InputError("the disk is full", fix="empty it")


def test_a_run_that_breaks_off_does_not_look_finished(short_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        short_run(tmp_path / "broken", f"--trainer.callbacks+={__name__}.StopsEarly", "--trust")
    assert stopped.value.code == 2
    assert "the disk is full" in capsys.readouterr().err
    assert (tmp_path / "broken" / "config.yaml").exists()
    assert not (tmp_path / "broken" / "metrics.json").exists()
