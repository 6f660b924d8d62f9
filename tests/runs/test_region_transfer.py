"""RegionCLIP's rows through the command line: transfer, zero-shot, and boxes of anyone's."""

import json
from pathlib import Path

import pytest
import torch

import gridclip
from gridclip.cli import main

ROOT = Path(__file__).parents[2]
MINI = ROOT / "experiments" / "mini"
QUIET = [
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
DETECTOR = "--model.detector.init_args"


def run(verb, row, folder, root, *arguments):
    main(
        [verb, f"--config={MINI / row}", f"--run_dir={folder}", f"--data.init_args.root={root}"]
        + [*QUIET, *arguments]
    )
    return folder


@pytest.fixture(scope="module")
def trained(mini_root, tmp_path_factory):
    few = ["--data.init_args.batch_size=4", f"{DETECTOR}.sampling.regions=8"]
    few += ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    few += ["--data.init_args.val_batch_size=6", f"{DETECTOR}.proposals.limit=16"]
    few += [f"{DETECTOR}.given={mini_root / 'val.json'}"]  # of the evaluation alone
    folder = tmp_path_factory.mktemp("runs") / "regionclip"
    return run("fit", "regionclip.yaml", folder, mini_root, *few)


@pytest.fixture(scope="module")
def image(mini_root):
    listed = json.loads((mini_root / "val.json").read_text())
    image = listed["images"][0]
    boxes = [each["bbox"] for each in listed["annotations"] if each["image_id"] == image["id"]]
    corners = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    return mini_root / "images" / image["file_name"], corners


def test_given_boxes_are_named_by_a_command_and_by_a_plain_call(trained, image, tmp_path, capsys):
    file, corners = image
    boxes, output = tmp_path / "boxes.json", tmp_path / "named.json"
    boxes.write_text(json.dumps(corners))
    names = "red striped star, green ring, blue moon"
    given = [f"--run={trained}", f"--boxes={boxes}", f"--names={names}"]
    main(["classify", str(file), *given, f"--output={output}"])
    assert "blue moon" in capsys.readouterr().out
    said = json.loads(output.read_text())
    detector = gridclip.load(trained)
    plain = detector.classify(file, corners, names.split(", "))
    assert [row["box"] for row in said] == corners
    for row, shown in zip(said, plain, strict=True):
        assert row["names"] == pytest.approx(shown, rel=1e-4)
    assert detector.region_features(file, corners).shape == (len(corners), 128)
    boxes.write_text("{}")
    with pytest.raises(SystemExit):
        main(["classify", str(file), *given])
    assert "holds no list" in capsys.readouterr().err


def test_zero_shot_names_given_boxes_and_every_one_is_found(mini_root, tmp_path):
    given = f"{DETECTOR}.given={mini_root / 'val.json'}"
    run("validate", "regionclip_zero_shot.yaml", tmp_path, mini_root, given)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # No box is wrong, so what is lost is lost by names: at any overlap the same.
    assert metrics["AP"] == pytest.approx(metrics["AP75"])
    assert metrics["AP"] > 0.1


@pytest.fixture
def proposing(mini_root, tmp_path):
    """The checkpoint of a run of ViLD-text."""
    few = ["--data.init_args.batch_size=4", "--trainer.max_steps=1"]
    few += ["--trainer.limit_val_batches=0", f"{DETECTOR}.sampling.regions=4"]
    folder = run("fit", "vild_text.yaml", tmp_path / "other", mini_root, *few)
    return folder / "checkpoints" / "last.ckpt"


def test_proposals_of_another_run_are_taken_and_kept(proposing, mini_root, tmp_path):
    row, taken = "regionclip_zero_shot_proposed.yaml", f"{DETECTOR}.checkpoint={proposing}"
    few = ["--trainer.limit_val_batches=1", "--data.init_args.val_batch_size=2"]
    run("validate", row, tmp_path / "zero", mini_root, taken, *few)
    assert json.loads((tmp_path / "zero" / "metrics.json").read_text())["num_images"] == 2

    few += ["--trainer.max_steps=1", "--data.init_args.batch_size=2"]
    few += [f"{DETECTOR}.sampling.regions=4", "--trainer.val_check_interval=1"]
    run("fit", row, tmp_path / "fitted", mini_root, taken, *few)
    kept = torch.load(proposing, weights_only=True)["state_dict"]
    proposing.unlink()  # a run goes on without what it started from
    own = gridclip.load(tmp_path / "fitted").detector.proposer.state_dict()
    assert own.keys() == {name.removeprefix("detector.") for name in kept}
    assert all(own[name.removeprefix("detector.")].equal(kept[name]) for name in kept)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["r50_coco", "r50_lvis"])
def test_a_full_size_row_makes_one_step_on_small_images(row, tmp_path, monkeypatch):
    """RN50 with random weights, regions of its own grid, and proposals of another network."""
    monkeypatch.chdir(ROOT)
    full, one_step = ROOT / "experiments" / "regionclip", "one_step_regionclip_detector.yaml"
    main(
        ["fit", f"--config={full / row}.yaml", f"--run_dir={tmp_path}", *QUIET]
        + [f"--config={ROOT / 'experiments' / 'shared' / one_step}"]
        + ["--data.init_args.height=96", "--data.init_args.width=128", "--data.init_args.names=20"]
        + [f"{DETECTOR}.sampling.regions=16"]
        + [f"{DETECTOR}.proposer.init_args.proposals.limit=40"]
    )
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["detector.regions.tower.layer4.0.conv1.weight"].shape == (512, 1024, 1, 1)
    assert state["detector.box.weight"].shape == (4, 1024)
    assert all(tensor.isfinite().all() for tensor in state.values())
