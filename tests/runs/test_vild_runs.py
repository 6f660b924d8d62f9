"""The two-stage rows, through the command line: from proposals to a trained ViLD and beyond."""

import json
from pathlib import Path

import pytest
import torch

import gridclip
from gridclip.cli import main
from gridclip.data.precomputed.stored import StoredProposals, StoredRegions
from gridclip.engine.precompute import regions as precompute
from gridclip.engine.precompute.regions import propose
from gridclip.models.encoders.teachers import ClipTeacher

ROOT = Path(__file__).parents[2]
MINI, FULL = ROOT / "experiments" / "mini", ROOT / "experiments" / "vild"
QUIET = [
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def fit(row, folder, root, *arguments):
    main(
        ["fit", f"--config={MINI / row}", f"--run_dir={folder}", f"--data.init_args.root={root}"]
        + ["--data.init_args.batch_size=4", "--trainer.max_steps=3"]
        + ["--trainer.val_check_interval=3", *QUIET, *arguments]
    )
    return folder


@pytest.fixture(scope="module")
def text_run(mini_root, tmp_path_factory):
    return fit("vild_text.yaml", tmp_path_factory.mktemp("runs") / "text", mini_root)


@pytest.fixture(scope="module")
def regions(text_run, mini_root, tmp_path_factory):
    """A run's proposals of the training images, embedded."""
    folder, source = tmp_path_factory.mktemp("stored"), str(mini_root / "train.json")
    proposals, output = str(folder / "proposals"), str(folder / "regions")
    main(["propose", source, f"--run={text_run}", f"--output={proposals}", "--limit=4"])
    main(
        ["clip", "embed-proposals", proposals, f"--source={source}", f"--output={output}"]
        + ["--limit=4", "--view=pasted"]
    )
    return Path(output)


@pytest.mark.field
def test_an_image_that_cannot_be_read_costs_no_proposals_of_others(
    text_run, regions, mini_root, tmp_path, capsys, monkeypatch
):
    """Once it is there again, the command goes on to the file of one that was not interrupted."""
    (tmp_path / "images" / "train").mkdir(parents=True)
    listed = json.loads((mini_root / "train.json").read_text())["images"]
    for image in listed:
        (tmp_path / "images" / image["file_name"]).symlink_to(
            mini_root / "images" / image["file_name"]
        )
    (tmp_path / "train.json").symlink_to(mini_root / "train.json")
    broken = tmp_path / "images" / listed[40]["file_name"]
    whole = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(bytes(len(whole)))
    output = tmp_path / "proposals"
    command = ["propose", str(tmp_path / "train.json"), f"--run={text_run}", "--limit=4"]
    with pytest.raises(SystemExit):
        main([*command, f"--output={output}"])
    assert broken.name in capsys.readouterr().err
    broken.write_bytes(whole)
    asked = []

    def counted(*given):
        asked.append(given)
        return propose(*given)

    monkeypatch.setattr(precompute, "propose", counted)
    main([*command, f"--output={output}"])
    assert len(asked) == len(listed) - 40
    assert output.read_bytes() == regions.with_name("proposals").read_bytes()


def test_proposals_are_those_of_the_run_in_pixels_of_the_files(text_run, regions, mini_root):
    stored = StoredProposals(regions.with_name("proposals"))
    assert len(stored) == 48
    assert len(StoredRegions(regions)) == 48 * 4
    detector = gridclip.load(text_run)
    listed = json.loads((mini_root / "train.json").read_text())["images"][0]
    boxes, scores = stored.of(listed["file_name"])
    assert boxes.shape == (4, 4)
    assert (boxes[:, 2:] <= [listed["width"], listed["height"]]).all()
    assert (scores[:-1] >= scores[1:]).all()
    assert detector.detector.trained_on is not None


@pytest.mark.slow  # golden losses and contracts hold both parts of it
@pytest.mark.parametrize("row", ["vild", "vild_ensemble"])
def test_a_mini_row_trains_on_stored_regions_and_finds_what_it_is_asked_for(
    row, regions, mini_root, tmp_path
):
    stored = f"--data.init_args.regions={regions}"
    run = fit(f"{row}.yaml", tmp_path / "run", mini_root, stored)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_images"] == 12
    image = (
        mini_root
        / "images"
        / json.loads((mini_root / "val.json").read_text())["images"][0]["file_name"]
    )
    found = gridclip.load(run).detect(image, ["red striped star", "a cup"], threshold=0.0)
    assert 0 < len(found) <= 100
    assert {each.name for each in found} <= {"red striped star", "a cup"}


def test_regions_that_were_stored_in_another_view_are_refused(regions, mini_root, tmp_path, capsys):
    stored = f"--data.init_args.regions={regions}"
    with pytest.raises(SystemExit):
        fit("vild.yaml", tmp_path / "run", mini_root, stored, "--model.detector.init_args.view=roi")
    told = capsys.readouterr().err
    assert "data.regions: the teacher was shown regions in the view 'pasted', not in 'roi'" in told
    assert "embed-proposals --view roi" in told


def test_stored_regions_of_another_teacher_are_refused(
    regions, mini_root, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(ClipTeacher, "fingerprint", lambda self: "another")
    clip = {"name": "gridclip-mini", "weights": "mini"}
    teacher = json.dumps({"class_path": "ClipTeacher", "init_args": {"clip": clip}})
    with pytest.raises(SystemExit):
        fit(
            "vild.yaml",
            tmp_path / "run",
            mini_root,
            f"--data.init_args.regions={regions}",
            f"--model.detector.init_args.teacher={teacher}",
        )
    told = capsys.readouterr().err
    assert "data.regions: the embeddings are of gridclip-mini" in told
    assert "the teacher is another" in told


def test_crop_and_classify_is_evaluated_with_the_proposals_of_a_run(text_run, mini_root, tmp_path):
    checkpoint = text_run / "checkpoints" / "last.ckpt"
    main(
        ["validate", f"--config={MINI / 'crop_and_classify.yaml'}", f"--run_dir={tmp_path}"]
        + [f"--data.init_args.root={mini_root}", "--trainer.limit_val_batches=1", *QUIET[:1]]
        + ["--data.init_args.val_batch_size=2", "--model.detector.init_args.limit=3"]
        + [f"--model.detector.init_args.checkpoint={checkpoint}"]
    )
    assert json.loads((tmp_path / "metrics.json").read_text())["num_images"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("row", ["r50_lvis_text", "r50_lvis", "r50_lvis_ensemble"])
def test_a_full_size_row_makes_one_step_on_small_images(row, tmp_path, monkeypatch):
    """Heads as published, RN50 and ViT-B/32 with random weights; a looking teacher."""
    monkeypatch.chdir(ROOT)
    main(
        ["fit", f"--config={FULL / row}.yaml", f"--run_dir={tmp_path}"]
        + [f"--config={ROOT / 'experiments' / 'shared' / 'one_step_vild.yaml'}"]
        + ["--data.init_args.height=96", "--data.init_args.width=128"]
        + ["--data.init_args.names=20", "--data.init_args.batch_size=1"]
        + ["--model.detector.init_args.sampling.regions=16", *QUIET]
        + ["--model.detector.init_args.sampling.distilled=2"]
    )
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["detector.head.tower.0.weight"].shape == (256, 256, 3, 3)
    assert all(tensor.isfinite().all() for tensor in state.values())
