"""RegionCLIP's pre-training from the command line, and what can be done with a run of it."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gridclip
from gridclip.cli import main

ROOT = Path(__file__).parents[2]
MINI = ROOT / "experiments" / "mini"
GIB = 1024**2  # in the KiB that getrusage counts
QUIET = [
    "--trainer.logger=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


@pytest.fixture(scope="module")
def pretrained(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    concepts, pairs = folder / "concepts.txt", mini_root / "hybrid" / "pairs.jsonl"
    main(["data", "concepts", str(pairs), f"--output={concepts}"])
    main(
        ["fit", f"--config={MINI / 'regionclip_pretrain.yaml'}", f"--run_dir={folder / 'run'}"]
        + [f"--model.detector.init_args.concepts={concepts}"]
        + [f"--model.detector.init_args.given={mini_root / 'val.json'}"]
        + [f"--data.init_args.root={mini_root}", f"--data.init_args.pairs.source={pairs}"]
        + ["--data.init_args.pairs.batch_size=4", "--trainer.max_steps=2"]
        + ["--trainer.val_check_interval=2", *QUIET]
    )
    return folder / "run"


def test_a_pretraining_is_evaluated_zero_shot_on_given_boxes(pretrained):
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert metrics["AP"] > 0.1  # the mini CLIP knows much of it before any training


def test_gridclip_starts_from_a_run_of_it_and_does_without_it_later(
    pretrained, mini_root, tmp_path
):
    checkpoint = pretrained / "checkpoints" / "last.ckpt"
    run = tmp_path / "gridclip"
    main(
        ["fit", f"--config={MINI / 'gridclip_from_regionclip.yaml'}", f"--run_dir={run}"]
        + [f"--model.init_from={checkpoint}", "--model.optimizer.lr=0.0"]
        + [f"--data.init_args.root={mini_root}", "--data.init_args.batch_size=4"]
        + ["--trainer.max_steps=1", "--trainer.val_check_interval=1", *QUIET]
    )
    encoder = torch.load(checkpoint, weights_only=True)["state_dict"]
    started = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    names = [name for name in encoder if name.startswith("detector.regions.tower.")]
    assert names
    for name in names:
        own = started[name.replace("detector.regions.", "detector.backbone.")]
        assert torch.equal(own, encoder[name]), name
    checkpoint.rename(checkpoint.with_suffix(".gone"))
    gridclip.load(run)


@pytest.mark.slow
def test_the_full_size_row_makes_one_step_within_12_gib(tmp_path):
    """1333 x 800 pixels and 100 regions of each image; random weights."""
    row = ROOT / "experiments" / "regionclip" / "r50_cc3m.yaml"
    step = ROOT / "experiments" / "shared" / "one_step_regionclip.yaml"
    subprocess.run(
        [sys.executable, "-m", "gridclip", "fit", f"--config={row}", f"--config={step}"]
        + [f"--run_dir={tmp_path}"],
        check=True,
        timeout=1200,
    )
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 12 * GIB
