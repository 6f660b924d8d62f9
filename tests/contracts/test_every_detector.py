"""What every detector does, whatever its method: one test a verb, one case a detector.

All goes through the command line and `gridclip.load`, as a user would. The detectors are listed in
detector_cases.py.
"""

import json

import pytest
import torch
import yaml
from detector_cases import DETECTORS, SIDE, SIZE, STEPS, TRAINED, UNTRAINED
from PIL import Image

from gridclip.cli import main

NAMES = ["red striped star", "a cup", "green plain ring"]


def _each(cases):
    return [pytest.param(c, id=c.name, marks=pytest.mark.slow if c.slow else ()) for c in cases]


every_detector = pytest.mark.parametrize("case", _each(DETECTORS))
every_trained_detector = pytest.mark.parametrize("case", _each(TRAINED))


def _read(file):
    return json.loads(file.read_text())


def _measured(folder):
    """All figures of a run folder, and the boxes of the images that it shows."""
    return (folder / "metrics.json").read_text(), _read(folder / "pictures" / "examples.json")


def _refusal(capsys, *command):
    """What the InputError of a command says; it ends the command with status 2."""
    with pytest.raises(SystemExit) as stopped:
        main(list(command))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "fix: " in said
    return said


@every_trained_detector
def test_a_training_leaves_a_finished_run_whose_weights_have_moved(case, fitted):
    run = fitted(case)
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == STEPS
    (line,) = (run / "history.jsonl").read_text().splitlines()
    metrics = _read(run / "metrics.json")
    assert metrics["num_images"] == 4
    assert json.loads(line)["step"] == STEPS
    assert json.loads(line)["val/AP"] == metrics["AP"]
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    first, last = (
        torch.load(file, weights_only=True)
        for file in (run / "first.ckpt", run / "checkpoints" / "last.ckpt")
    )
    weights = last["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())
    moved = [not weights[name].equal(weight) for name, weight in first["state_dict"].items()]
    learns = sum(len(group["params"]) for group in last["optimizer_states"][0]["param_groups"])
    assert sum(moved) > 0.9 * learns  # not all: what another kind of data teaches rests


@every_trained_detector
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(case, fitted, recipe, tmp_path):
    whole = fitted(case)
    checkpoint = f"--ckpt_path={whole / 'first.ckpt'}"
    main(["fit", recipe(case, case.learns), f"--run_dir={tmp_path}", checkpoint])
    expected, resumed = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in (whole, tmp_path)
    )
    assert resumed["global_step"] == expected["global_step"] == STEPS
    assert resumed["state_dict"].keys() == expected["state_dict"].keys()
    for name, weight in expected["state_dict"].items():
        assert resumed["state_dict"][name].equal(weight), name
    assert _measured(tmp_path) == _measured(whole)


@every_trained_detector
def test_validation_of_a_checkpoint_repeats_what_the_training_ended_with(case, fitted, validated):
    assert _measured(validated(case)) == _measured(fitted(case))


@every_detector
def test_predictions_lie_in_the_images_and_score_what_validation_says(
    case, evaluated, validated, root, tmp_path
):
    main(["predict", *evaluated(case), f"--run_dir={tmp_path}"])
    truth, found = _read(root / "val.json"), _read(tmp_path / "detections.json")
    assert {each["image_id"] for each in found} == {each["id"] for each in truth["images"]}
    assert {each["category_id"] for each in found} <= {each["id"] for each in truth["categories"]}
    assert all(0 <= each["score"] <= 1 for each in found)
    boxes = torch.tensor([each["bbox"] for each in found])  # x, y, width, height
    far = boxes[:, :2] + boxes[:, 2:]
    assert (boxes >= 0).all()
    assert (far <= SIZE + 1e-3).all()
    assert (far.amax(0) > SIDE).all()  # in pixels of the files, not of what the network sees
    scored = tmp_path / "scored.json"
    given = [f"--annotations={root / 'val.json'}", f"--detections={tmp_path / 'detections.json'}"]
    main(["evaluate", *given, f"--output={scored}"])
    assert scored.read_text() == (validated(case) / "metrics.json").read_text()


@every_trained_detector
def test_a_loaded_detector_names_what_it_is_asked_for(case, loaded, image):
    detector = loaded(case)
    torch.manual_seed(0)  # a pre-training looks at boxes that chance draws
    found = detector.detect(image, NAMES, threshold=0.0, limit=1000)
    assert {each.name for each in found} == set(NAMES)
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1
    torch.manual_seed(0)
    again = detector.detect(image, NAMES[::-1], threshold=0.0, limit=1000)
    # Names that compete are summed in the order in which they are asked for, which rounds.
    ours, theirs = (
        sorted((each.name, each.box, each.score) for each in these) for these in (found, again)
    )
    assert [each[:2] for each in ours] == [each[:2] for each in theirs]
    assert [each[2] for each in ours] == pytest.approx([each[2] for each in theirs], rel=1e-5)
    torch.manual_seed(0)
    assert detector.detect(image, NAMES, threshold=0.0, limit=3) == found[:3]
    middle = scores[len(scores) // 2]
    torch.manual_seed(0)
    above = detector.detect(image, NAMES, threshold=middle, limit=1000)
    assert above == [each for each in found if each.score >= middle]


@every_trained_detector
def test_boxes_are_in_pixels_of_the_image_that_was_given(case, loaded, image):
    """Of an image twice as large, which the network sees in the same size, all are twice so."""
    detector, found = loaded(case), []
    for file in (image.with_name("half.png"), image):
        torch.manual_seed(0)
        found.append(detector.detect(file, NAMES, threshold=0.0))
    half, whole = ([list(each.box) for each in these] for these in found)
    assert whole == [pytest.approx([2 * edge for edge in box], abs=1e-3) for box in half]
    width, height = Image.open(image).size
    far = torch.tensor(whole).amax(0)
    assert (torch.tensor(whole) >= 0).all()
    assert far[2] <= width
    assert far[3] <= height


@every_trained_detector
def test_the_detect_command_writes_what_a_loaded_detector_finds(
    case, fitted, loaded, image, tmp_path
):
    run = fitted(case)  # before the seed: the first test to ask for it trains it
    torch.manual_seed(0)
    main(
        ["detect", f"--run={run}", f"--names={', '.join(NAMES)}", "--threshold=0"]
        + [f"--output={tmp_path}", str(image)]
    )
    torch.manual_seed(0)
    plain = loaded(case).detect(image, NAMES, threshold=0.0)
    written = _read(tmp_path / "detections.json")[str(image)]
    assert written == plain.to_rows()
    assert (tmp_path / "wide-detected.jpg").exists()


@pytest.mark.parametrize(
    ("case", "data", "advice"),
    [
        pytest.param(case, data, advice, id=f"{case.name}-{data}")
        for case in DETECTORS
        if not case.slow
        for data, advice in case.refuses.items()
    ],
)
def test_what_a_detector_cannot_learn_from_is_refused_with_what_to_use(
    case, data, advice, recipe, tmp_path, capsys
):
    said = _refusal(capsys, "fit", recipe(case, data), f"--run_dir={tmp_path}")
    assert advice in said.partition("fix: ")[2]
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "metrics.json").exists()


@every_trained_detector
def test_given_boxes_are_named_or_refused(case, fitted, image, tmp_path, capsys):
    boxes, output = tmp_path / "boxes.json", tmp_path / "named.json"
    boxes.write_text("[[0, 0, 40, 30], [20, 10, 128, 96]]")
    asked = [f"--run={fitted(case)}", f"--boxes={boxes}", f"--names={', '.join(NAMES)}"]
    command = ["classify", str(image), *asked, f"--output={output}"]
    if not case.reads_boxes:
        assert "give a run of RegionCLIP" in _refusal(capsys, *command)
        assert not output.exists()
        return
    main(command)
    named = _read(output)
    assert [each["box"] for each in named] == _read(boxes)
    for each in named:
        assert each["names"].keys() == set(NAMES)
        assert sum(each["names"].values()) == pytest.approx(1, abs=1e-5)


@every_trained_detector
def test_regions_are_proposed_or_refused(case, fitted, root, tmp_path, capsys):
    output = tmp_path / "proposals.safetensors"
    command = ["propose", str(root / "val.json"), f"--run={fitted(case)}", f"--output={output}"]
    if not case.proposes:
        assert "fix: give the run of a" in _refusal(capsys, *command)
        assert not output.exists()
        return
    main([*command, "--limit=5"])
    assert "20 proposals in 4 images" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("case", UNTRAINED, ids=lambda case: case.name)
def test_what_was_only_evaluated_is_no_run_to_detect_with(case, validated, image, tmp_path, capsys):
    command = ["detect", f"--run={validated(case)}", "--names=a cup", f"--output={tmp_path}"]
    assert "give the folder of a training" in _refusal(capsys, *command, str(image))
    assert not (tmp_path / "detections.json").exists()
