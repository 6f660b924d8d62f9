"""The mask row, through the command line: trained, scored, predicted, scored again, drawn."""

import json
from pathlib import Path

import pytest
from pycocotools import mask as coco

from gridclip.cli import main

ROW = Path(__file__).parents[2] / "experiments" / "mini" / "vild_masks.yaml"


@pytest.mark.slow
def test_masks_go_from_annotations_to_figures_results_and_drawings(mini_root, tmp_path):
    run, predicted, output = tmp_path / "run", tmp_path / "predicted", tmp_path / "found"
    main(
        ["fit", f"--config={ROW}", f"--run_dir={run}", f"--data.init_args.root={mini_root}"]
        + ["--data.init_args.batch_size=4", "--trainer.max_steps=3"]
        + ["--trainer.val_check_interval=3", "--trainer.logger=false"]
        + ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    )
    (line,) = map(json.loads, (run / "history.jsonl").read_text().splitlines())
    figures = json.loads((run / "metrics.json").read_text())
    assert line["val/segm_AP"] == figures["segm_AP"]
    checkpoint = run / "checkpoints" / "last.ckpt"
    given = [f"--config={run / 'config.yaml'}", f"--ckpt_path={checkpoint}"]
    main(["predict", *given, f"--run_dir={predicted}"])
    results = predicted / "detections.json"
    for each in json.loads(results.read_text()):
        left, top, width, height = coco.toBbox(each["segmentation"])
        x, y, across, down = each["bbox"]
        assert width == 0 or (left >= x - 1 and left + width <= x + across + 1)
        assert height == 0 or (top >= y - 1 and top + height <= y + down + 1)
    asked = [f"--annotations={mini_root / 'val.json'}", f"--detections={results}", "--masks=true"]
    main(["evaluate", *asked, f"--output={tmp_path / 'scored.json'}"])
    assert json.loads((tmp_path / "scored.json").read_text()) == figures
    image = mini_root / "images" / "val" / "000001.jpg"
    main(
        ["detect", str(image), f"--run={run}", "--names=red plain star", "--threshold=0"]
        + [f"--output={output}", "--format=coco"]
    )
    (found,) = json.loads((output / "detections.json").read_text()).values()
    assert found
    written = json.loads((output / "coco_results.json").read_text())
    assert [each["segmentation"] for each in written] == [each["segmentation"] for each in found]
