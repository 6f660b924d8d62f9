"""DetCLIPv2 from the command line: all three kinds of data, and the full size."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gridclip.cli import main

ROOT = Path(__file__).parents[2]
GIB = 1024**2  # in the KiB that getrusage counts


@pytest.fixture(scope="module")
def trained(mini_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "detclip"
    main(
        ["fit", f"--config={ROOT / 'experiments' / 'mini' / 'detclip_pairs.yaml'}"]
        + [f"--run_dir={folder}", f"--data.init_args.root={mini_root}"]
        + [f"--data.init_args.detection.root={mini_root}"]
        + [f"--data.init_args.grounding.file={mini_root / 'hybrid' / 'grounding.json'}"]
        + [f"--data.init_args.grounding.images={mini_root / 'hybrid' / 'images'}"]
        + [f"--data.init_args.pairs.source={mini_root / 'hybrid' / 'pairs.jsonl'}"]
        + [f"--data.init_args.{kind}.batch_size=4" for kind in ("detection", "grounding", "pairs")]
        + ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--trainer.logger=false"]
        + ["--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false"]
        + ["--trainer.enable_model_summary=false"]
    )
    return folder


def test_a_checkpoint_holds_the_text_tower_that_has_learnt(trained):
    state = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["detector.text.tower.positional_embedding"].shape[0] == 16
    assert "detector.head.where.weight" in state
    assert state["detector.head.where.weight"].any()  # the offsets have moved


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one_step_detclip", "one_step_detclip_pairs"])
def test_the_full_size_row_makes_one_step_within_20_gib(kind, tmp_path):
    """1333 x 800 pixels and 150 names, or 320 x 320 and captions; random weights."""
    row = ROOT / "experiments" / "detclip" / "swin_t_o365_goldg_cc15m.yaml"
    step = ROOT / "experiments" / "shared" / f"{kind}.yaml"
    subprocess.run(
        [sys.executable, "-m", "gridclip", "fit", f"--config={row}", f"--config={step}"]
        + [f"--run_dir={tmp_path}"],
        check=True,
    )
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 20 * GIB
