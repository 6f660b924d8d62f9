"""The full-size rows, and real photographs: minutes each."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gridclip.cli import main

ROOT = Path(__file__).parents[2]
GIB = 1024**2  # in the KiB that getrusage counts

pytestmark = pytest.mark.slow


def test_the_lvis_row_makes_one_step_at_full_size_within_20_gib(tmp_path):
    """1333 x 800 pixels, 1203 names, two images; random weights, since CLIP's are not here."""
    step = ROOT / "experiments" / "shared" / "one_step.yaml"
    row = ROOT / "experiments" / "gridclip" / "r50_lvis.yaml"
    subprocess.run(
        [sys.executable, "-m", "gridclip", "fit", f"--config={row}", f"--config={step}"]
        + [f"--run_dir={tmp_path}"],
        check=True,
    )
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 20 * GIB


def test_eight_photographs_can_be_learnt_by_heart(test_data, tmp_path):
    """Trained and evaluated on the same eight: what a detector must do before all else."""
    source = json.loads((test_data / "coco_mini" / "train.json").read_text())
    boxes: dict[int, list[dict]] = {}
    for each in source["annotations"]:
        boxes.setdefault(each["image_id"], []).append(each)
    # Images of a few large objects: small ones are a matter of resolution, not of learning.
    large = [
        image
        for image in source["images"]
        if 1 <= len(boxes.get(image["id"], [])) <= 4
        and min(box["area"] for box in boxes[image["id"]]) > 0.02 * image["width"] * image["height"]
    ][:8]
    kept = {image["id"] for image in large}
    source["images"] = large
    source["annotations"] = [each for each in source["annotations"] if each["image_id"] in kept]
    (tmp_path / "eight.json").write_text(json.dumps(source))
    text = "--model.detector.init_args.text.init_args"
    main(
        ["fit", f"--config={ROOT / 'experiments' / 'coco' / 'gridclip_lite0.yaml'}"]
        + [f"--run_dir={tmp_path / 'run'}", f"--data.init_args.root={tmp_path}"]
        + ["--data.init_args.train=eight.json", "--data.init_args.val=eight.json"]
        + [f"--data.init_args.images={test_data / 'coco_mini' / 'images'}"]
        + ["--data.init_args.rare_split=all", "--data.init_args.augmentation.colour=0"]
        + ["--data.init_args.augmentation.crop=0", "--data.init_args.augmentation.scale=[1, 1]"]
        + ["--data.init_args.augmentation.flip=0", "--data.init_args.resize.shortest=[256]"]
        + ["--data.init_args.val_resize.shortest=[256]"]
        + [f"{text}.vectors={test_data / 'clip_vit_b32_text' / 'coco.npy'}"]
        + [f"{text}.names={test_data / 'coco_mini' / 'train.json'}"]
        + ["--model.detector.init_args.ensemble=null"]  # what the detector itself has learnt
        + ["--trainer.max_steps=300", "--trainer.val_check_interval=150"]
        + ["--data.init_args.repeat_threshold=0", "--trainer.callbacks=[]"]  # no average of weights
        + ["--trainer.logger=false", "--trainer.check_val_every_n_epoch=null"]
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["num_images"] == 8
    assert metrics["AP50"] >= 0.9
