"""Rows that train on folders of YOLO and VOC form, by their root alone."""

import json

import pytest

from gridclip.cli import main

FORMS = {"yolo": "images", "voc": "JPEGImages"}


def exported(mini_root, folder, form):
    for part in ("train", "val"):
        file, images = mini_root / f"{part}.json", mini_root / "images"
        words = ["--form", form, "--split", part, "--images", str(images)]
        main(["data", "export", str(file), str(folder), *words])
    return folder


def figures(run):
    metrics = json.loads((run / "metrics.json").read_text())
    return {key: metrics[key] for key in ("AP", "AP50", "APr", "APc", "APf", "num_images")}


def test_a_yolo_folder_trains_to_the_figures_of_the_file_that_it_was_made_of(
    trained, short_run, mini_root, tmp_path
):
    root = exported(mini_root, tmp_path / "yolo", "yolo")
    run = short_run(tmp_path / "run", f"--data.init_args.root={root}")
    assert figures(run) == pytest.approx(figures(trained), abs=1e-6)


@pytest.mark.slow
def test_a_voc_folder_trains_under_a_row_that_names_files_of_lvis(short_run, mini_root, tmp_path):
    root = exported(mini_root, tmp_path / "voc", "voc")
    run = short_run(
        tmp_path / "run",
        f"--data.init_args.root={root}",
        "--data.init_args.train=lvis_v1_train.json",
        "--data.init_args.val=lvis_v1_val.json",
        "--data.init_args.images=.",
        steps=3,
    )
    assert figures(run)["num_images"] == 12
