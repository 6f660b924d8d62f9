"""Folded, pre-filtered and other quick ways to detect, on the validation images of a training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import gridclip
from gridclip.cli import main
from gridclip.engine.detect.speed import Speed
from gridclip.engine.predictor import load
from gridclip.models.dense.text_folding import Folding
from gridclip.ops.postprocess import DecodeSettings

ROOT = Path(__file__).parents[2]
ROW = ROOT / "experiments" / "mini" / "gridclip.yaml"
ALL = {"threshold": 0.0, "limit": 300}


def images(root):
    content = json.loads((root / "val.json").read_text())
    names = [each["name"] for each in content["categories"]]
    files = [root / "images" / each["file_name"] for each in content["images"]]
    assert all(file.is_file() for file in files)
    return files, names


def unfolded(detector):
    """The same detector, whose head and names stay as they are."""
    network = detector.detector
    network.folding = Folding(network.head.embed, network.text, enabled=False)
    return detector


def table(found):
    """Detections of an image as arrays: names, scores, boxes."""
    names = np.array([each.name for each in found])
    return names, np.array([e.score for e in found]), np.array([e.box for e in found])


def assert_same(some, others, score=1e-5):
    """Same names and boxes with the same scores.

    Scores closer than `score` may change places; so what is as close to the last may be missing.
    """
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert len(one) == len(other)
        if not one:
            continue
        (names, scores, boxes), (their_names, their_scores, their_boxes) = table(one), table(other)
        np.testing.assert_allclose(scores, their_scores, atol=score, rtol=0)
        twin = names[:, None] == their_names
        twin &= np.abs(scores[:, None] - their_scores) <= score
        twin &= (np.abs(boxes[:, None] - their_boxes) <= 1e-2).all(-1)
        assert (twin.any(1) | (scores <= scores[-1] + 2 * score)).all()


def test_folded_and_unfolded_detections_are_equal(trained, mini_root):
    files, names = images(mini_root)
    folded = load(trained)
    assert folded.detector.folding.projection() is not None
    assert_same(
        folded.detect_many(files, names, **ALL),
        unfolded(load(trained)).detect_many(files, names, **ALL),
    )


def test_a_batch_of_mixed_sizes_finds_what_each_image_alone_does(trained, mini_root):
    files, names = images(mini_root)
    detector = load(trained)
    from PIL import Image

    mixed = [Image.open(files[0]), Image.open(files[1]).resize((100, 128))]
    together = detector.detect_many(mixed, names, **ALL)
    for found, image in zip(together, mixed, strict=True):
        alone = detector.detect(image, names, threshold=0.0, limit=20)
        assert [each.score for each in found[:20]] == pytest.approx(
            [each.score for each in alone], abs=0.05
        )


def test_the_options_of_speed_change_nothing_but_rounding(trained, mini_root):
    files, names = images(mini_root)
    plain = load(trained, speed=Speed(channels_last=False)).detect_many(files[:2], names, **ALL)
    assert_same(gridclip.load(trained).detect_many(files[:2], names, **ALL), plain, score=1e-4)
    rounded = load(trained, speed=Speed(bf16=True)).detect_many(files[:2], names, **ALL)
    for one, other in zip(rounded, plain, strict=True):
        assert [e.score for e in one[:20]] == pytest.approx([e.score for e in other[:20]], abs=0.02)


@pytest.mark.slow
def test_pre_filtered_and_folded_detections_after_a_real_training(tmp_path):
    """The whole mini row, all validation images: at most 0.002 AP is lost to the pre-filter."""
    root = ROOT / "data" / "mini"
    arguments = [f"--config={ROW}", f"--data.init_args.root={root}", "--trainer.logger=false"]
    main(["fit", *arguments, f"--run_dir={tmp_path / 'run'}"])
    files, names = images(root)
    plain = load(tmp_path / "run")
    count = len(names)
    assert_same(
        plain.detect_many(files, names, **ALL),
        unfolded(load(tmp_path / "run")).detect_many(files, names, **ALL),
    )
    full = json.loads((tmp_path / "run" / "metrics.json").read_text())["AP"]
    # A third of the 341 cells of an image; fewer prototypes than names, as in a large vocabulary.
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    main(
        ["validate", *arguments, f"--run_dir={tmp_path / 'filtered'}", f"--ckpt_path={checkpoint}"]
        + ["--model.detector.init_args.decoding.candidates=110"]
        + [f"--model.detector.init_args.decoding.pairs={110 * count}"]
    )
    metrics = json.loads((tmp_path / "filtered" / "metrics.json").read_text())
    assert metrics["AP"] >= full - 0.002
    assert DecodeSettings().pairs > 341 * count  # so by default these images are not filtered
    assert torch.isfinite(torch.tensor(full))
