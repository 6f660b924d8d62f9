"""`gridclip finetune`: a run learns own names, keeps the old ones, and both are measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import gridclip
from gridclip.cli import main
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.engine.lightning_module import read_checkpoint

OWN = ("moon", "arrow")  # shapes that no box of the run showed


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of drawn scenes of which only two shapes have boxes."""
    drawn, own = (tmp_path_factory.mktemp("own") / name for name in ("drawn", "mine"))
    make_mini(drawn, seed=7, train_images=60, val_images=6)
    own.mkdir()
    (own / "images").symlink_to(drawn / "images")
    for part, source in (("train", "train_all"), ("val", "val")):
        document = json.loads((drawn / f"{source}.json").read_text())
        names = [each for each in document["categories"] if each["name"].endswith(OWN)]
        ids = {each["id"] for each in names}
        boxes = [each for each in document["annotations"] if each["category_id"] in ids]
        shown = {each["image_id"] for each in boxes}
        images = [each for each in document["images"] if part == "val" or each["id"] in shown]
        for image in images:
            image.pop("neg_category_ids"), image.pop("not_exhaustive_category_ids")
        kept = {"images": images, "annotations": boxes}
        kept["categories"] = [{"id": each["id"], "name": each["name"]} for each in names]
        (own / f"{part}.json").write_text(json.dumps(kept))
    return own


@pytest.fixture(scope="module")
def tuned(trained, own, tmp_path_factory):
    """A fine-tuning, with a blend."""
    output = tmp_path_factory.mktemp("tuned") / "run"
    words = ["finetune", str(trained), "--data", str(own), "--output", str(output)]
    main([*words, "--steps", "2", "--pseudo", "1", "--replay", "0.5", "--blend", "[0.5]"])
    return output


@pytest.mark.slow
def test_figures_of_both_kinds_of_names_are_those_of_the_weights_they_stand_for(
    tuned, own, trained
):
    told = json.loads((tuned / "finetune.json").read_text())
    assert set(told["own"]) == set(told["old"]) == {"before", "after", "blend 0.5"}
    after = json.loads((tuned / "metrics.json").read_text())
    assert told["own"]["after"]["AP"] == after["AP"]
    before = json.loads((trained / "metrics.json").read_text())
    assert told["old"]["before"]["AP"] == before["AP"]
    blend = json.loads((tuned / "evaluations" / "old-blend-0.5" / "metrics.json").read_text())
    assert told["old"]["blend 0.5"]["AP"] == blend["AP"]


@pytest.mark.slow
def test_what_was_trained_on_is_own_and_old_names_of_own_and_replayed_images(tuned, own, trained):
    document = json.loads((tuned / "data" / "train.json").read_text())
    mine = json.loads((own / "train.json").read_text())
    folders = [each["file_name"].partition("/")[0] for each in document["images"]]
    assert folders.count("own") == len(mine["images"])
    assert folders.count("old") == round(0.5 * len(mine["images"]))
    was, now = (
        set(read_checkpoint(run / "checkpoints" / "last.ckpt")["trained_on"])
        for run in (trained, tuned)
    )
    assert now == was | {each["name"] for each in mine["categories"]}


@pytest.mark.slow
def test_the_result_is_a_run_that_finds_old_and_new_names(tuned, own):
    detector = gridclip.load(tuned)
    image = next((own / "images" / "val").glob("*"))
    found = detector.detect(image, ["red plain moon", "red plain circle"], threshold=0.0)
    assert {each.name for each in found} == {"red plain moon", "red plain circle"}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["nothing", "head", "residual", "distillation", "prompt"])
def test_each_way_of_keeping_trains_what_it_says_and_is_measured(
    way, trained, own, tmp_path, capsys
):
    output = tmp_path / "run"
    words = ["finetune", str(trained), "--data", str(own), "--output", str(output)]
    main([*words, "--steps", "2", "--keep", way, "--blend", "[0.5]"])
    before, after = (
        read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
        for run in (trained, output)
    )
    moved = {
        name.removeprefix("detector.")
        for name, value in after.items()
        if name not in before or not torch.equal(before[name], value)
    }
    may_move = {
        "nothing": ("",),
        "distillation": ("",),
        "head": ("head.", "log_scale", "bias", "score_scale"),
        "residual": ("head.embed.", "head.box.", "score_scale"),
        "prompt": ("text.shift",),
    }[way]
    assert moved
    assert all(name.startswith(may_move) for name in moved), moved
    folders = {each.name for each in (output / "data" / "images").iterdir()}
    assert folders == {"own", "own_val"}  # no old image is replayed
    told = json.loads((output / "finetune.json").read_text())
    assert set(told["own"]) == set(told["old"]) == {"before", "after", "blend 0.5"}
    found = gridclip.load(output).detect(next((own / "images" / "val").glob("*")), ["moon"])
    assert isinstance(found, list)


@pytest.mark.slow
def test_a_blend_lies_half_way_between_both_runs(tuned, trained):
    runs = (trained, tuned, tuned / "blend-0.5")
    before, after, half = (
        read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in runs
    )
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    for name in moved:
        if before[name].is_floating_point():
            torch.testing.assert_close(half[name], (before[name] + after[name]) / 2)


def test_a_row_alone_is_one_that_fit_takes(trained, own, tmp_path, capsys):
    output = tmp_path / "row"
    words = ["finetune", str(trained), "--data", str(own), "--output", str(output)]
    main([*words, "--row_only", "true", "--pseudo", "1", "--lr", "0.5", "--seed", "3"])
    row = yaml.safe_load((output / "row.yaml").read_text())
    recipe = yaml.safe_load((trained / "config.yaml").read_text())
    rate = recipe["model"]["optimizer"]["lr"]
    assert row["model"]["optimizer"]["lr"] == pytest.approx(0.5 * rate)
    assert row["seed_everything"] == row["data"]["init_args"]["seed"] == 3
    assert not (output / "checkpoints").exists()
    said = capsys.readouterr().out
    assert "new names" in said
    (command,) = [line for line in said.splitlines() if line.startswith("train: gridclip fit")]
    main([*command.split()[2:], "--trainer.max_steps=1", "--trainer.val_check_interval=1"])
    assert (output / "metrics.json").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": "nowhere"}, "lacks config.yaml"),
        ({"--data": "nowhere"}, "nowhere"),
        ({"--val": "other.json"}, "other.json"),
        ({"--lr": "0"}, "--lr"),
        ({"--pseudo": "2"}, "--pseudo"),
        ({"--blend": "[1.5]"}, "--blend"),
        ({"--steps": "0"}, "steps"),
        ({"--keep": "nothin"}, "take of: nothing"),
        ({"--keep": "prompt,replay"}, "--keep"),
        ({"--output": "."}, "there already"),
    ],
)
def test_what_is_wrong_is_refused_before_any_training(
    trained, own, tmp_path, changed, said, capsys
):
    given = {"--data": str(own), "--output": str(tmp_path / "run")} | changed
    run = given.pop("run", str(trained))
    with pytest.raises(SystemExit):
        main(["finetune", run, *(word for pair in given.items() for word in pair)])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_the_evidence_script_measures_each_way_and_goes_on(trained, own, tmp_path):
    root, made = Path(__file__).parents[2], tmp_path / "made"
    words = [sys.executable, root / "benchmarks" / "evidence" / "finetuning.py", made]
    words += ["--run", trained, "--data", own, "--steps", "2", "--seeds", "3", "--blends", "0.5"]
    subprocess.run([*words, "--ways", "prompt"], check=True, cwd=root, timeout=600)
    done = (made / "prompt-3" / "finetune.json").stat().st_mtime_ns
    both = ["--ways", "nothing", "prompt", "--blended", "nothing"]
    subprocess.run([*words, *both], check=True, cwd=root, timeout=600)
    assert (made / "prompt-3" / "finetune.json").stat().st_mtime_ns == done
    figures = json.loads((made / "figures.json").read_text())["after"]
    assert [*figures] == ["nothing", "nothing, blend 0.5", "prompt"]
    for way in ("nothing", "prompt"):
        (told,) = figures[way]
        metrics = json.loads((made / f"{way}-3" / "metrics.json").read_text())
        assert told["own AP"] == 100 * metrics["AP"]
        assert told["seed"] == 3
    table = (made / "table.md").read_text()
    assert table.count("(1 seeds)") == 3
    assert "| before |" in table
