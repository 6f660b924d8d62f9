"""The script that a lent GPU runs, on a CPU with few steps: nothing of it is new to the machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gridclip.data.precomputed.stored import StoredRegions

ROOT = Path(__file__).parents[2]
MINI = ROOT / "experiments" / "mini"


@pytest.mark.slow
def test_the_evidence_script_trains_pairs_and_says_what_alignment_gains(mini_root, tmp_path):
    script = ROOT / "benchmarks" / "evidence" / "coco_6k.py"
    words = [f"--plain={MINI / 'gridclip.yaml'}", f"--aligned={MINI / 'gridclip_regions.yaml'}"]
    words += [f"--source={mini_root / 'train.json'}", "--teacher=none", "--view=pasted"]
    words += ["--seeds", "3", "--steps=2", "--limit=4"]
    words += [f"--data.init_args.root={mini_root}", "--data.init_args.batch_size=4"]
    words += ["--trainer.val_check_interval=2"]
    output = tmp_path / "evidence"
    subprocess.run([sys.executable, script, output, *words], check=True, cwd=ROOT, timeout=600)
    summary = json.loads((output / "summary.json").read_text())
    assert set(summary["figures"]) == {"plain-3", "aligned-3"}
    for name, figures in summary["figures"].items():
        assert figures["AP"] == json.loads((output / name / "metrics.json").read_text())["AP"]
        assert (output / name / "checkpoints" / "last.ckpt").exists()
    gained = summary["figures"]["aligned-3"]["AP"] - summary["figures"]["plain-3"]["AP"]
    assert summary["aligned less plain"]["AP"] == {"mean": gained, "spread": 0.0, "pairs": 1}
    assert set(summary["seconds"]) == {"fit plain-3", "propose", "embed", "fit aligned-3"}
    assert StoredRegions(output / "regions.safetensors").view == "pasted"
    # A second call finds all of it there.
    subprocess.run([sys.executable, script, output, *words], check=True, cwd=ROOT, timeout=60)


@pytest.mark.slow
def test_the_script_for_a_gpu_measures_and_a_training_that_it_cuts_off_goes_on(tmp_path):
    script = ROOT / "benchmarks" / "gpu.py"
    subprocess.run([sys.executable, script, tmp_path, "--quick"], check=True, timeout=900)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["real training"]["goes on exactly"]
    assert found["parity"]["largest gap of scores"] < 1e-4
    assert len(found["training"]) == 3
    assert all(row["images a second"] > 0 for row in found["detecting"].values())
