"""`gridclip export`: what a file for another runtime finds is what its run finds."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import gridclip
from gridclip.cli import main
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.data.transforms.augment import Resize
from gridclip.engine.export.facts import Facts, Vectors, read_facts
from gridclip.evaluation.command import evaluate_command
from gridclip.io.errors import InputError
from gridclip.ops.postprocess import DecodeSettings

NAMES = ["red plain circle", "blue striped square"]
SIZES = [(1, 1), (33, 77), (1, 300), (301, 200), (128, 129)]  # width, height


def export(run, output, *options):
    """The command, in a process of its own: types that the tests check cannot be traced."""
    command = [sys.executable, "-m", "gridclip", "export", run, f"--output={output}", *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout
    return output


def refused(run, output, *options):
    with pytest.raises(SystemExit):
        main(["export", str(run), f"--output={output}", *options])
    assert not output.exists()


@pytest.fixture(scope="module")
def any_names(trained, tmp_path_factory):
    """A file that takes names as an input."""
    return export(trained, tmp_path_factory.mktemp("onnx") / "any.onnx", "--names-as-input")


def pictures(mini_root):
    """Photographs of the mini world, and noise of other sizes."""
    rng = np.random.default_rng(0)
    files = sorted((mini_root / "images" / "val").rglob("*.jpg"))[:3]
    noise = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in SIZES]
    return [*(np.asarray(Image.open(file).convert("RGB")) for file in files), *noise]


def assert_same(made, expected):
    """The same scores, and the same boxes to half a pixel where no score is near another's."""
    assert len(made) == len(expected) > 0
    gaps = [abs(a.score - b.score) for a, b in zip(made, expected, strict=True)]
    assert max(gaps) < 1e-4
    moved = [
        a.name != b.name or np.abs(np.subtract(a.box, b.box)).max() > 0.5
        for a, b in zip(made, expected, strict=True)
    ]
    assert np.mean(moved) < 0.05  # equal scores in another order


def compare(file, run, names, mini_root):
    made, expected = gridclip.load(file), gridclip.load(run)
    for pixels in pictures(mini_root):
        found = [each.detect(pixels, names, threshold=0.0, limit=300) for each in (made, expected)]
        assert_same(*found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 80, 288])
def test_one_file_finds_one_name_or_hundreds_as_its_run_does(any_names, trained, mini_root, count):
    known = json.loads((mini_root / "val.json").read_text())["categories"]
    compare(any_names, trained, [each["name"] for each in known][:count], mini_root)


@pytest.mark.slow
def test_names_that_nobody_trained_on_are_encoded_by_the_text_bank_of_the_run(
    any_names, trained, mini_root
):
    compare(any_names, trained, ["a green house", NAMES[0]], mini_root)


@pytest.mark.slow
@pytest.mark.parametrize("nms", ["inside", "outside"])
def test_names_that_are_folded_in_are_found_and_no_others(trained, mini_root, tmp_path, nms):
    file = export(trained, tmp_path / "two.onnx", f"--names={', '.join(NAMES)}", f"--nms={nms}")
    compare(file, trained, NAMES, mini_root)
    with pytest.raises(InputError, match=r"finds 2 names, and not a dog"):
        gridclip.load(file).detect(pictures(mini_root)[0], ["a dog"])
    alone = gridclip.load(file).detect(pictures(mini_root)[0], [NAMES[1]], threshold=0.0)
    assert {each.name for each in alone} == {NAMES[1]}


@pytest.mark.slow
def test_openvino_finds_the_same(trained, mini_root, tmp_path):
    file = export(trained, tmp_path / "any.xml", "--names-as-input", "--format=openvino")
    compare(file, trained, NAMES, mini_root)


@pytest.mark.slow
def test_a_run_of_detclip_is_exported_with_its_trained_text_tower_left_out(mini_root, tmp_path):
    row = "experiments/mini/detclip_detection.yaml"
    main(
        ["fit", f"--config={row}", f"--run_dir={tmp_path / 'run'}"]
        + [f"--data.init_args.root={mini_root}", "--trainer.max_steps=2"]
        + [f"--data.init_args.detection.root={mini_root}"]
        + ["--data.init_args.detection.batch_size=4", "--trainer.num_sanity_val_steps=0"]
        + ["--trainer.val_check_interval=2", "--trainer.logger=false"]
    )
    file = export(tmp_path / "run", tmp_path / "two.onnx", f"--names={', '.join(NAMES)}")
    compare(file, tmp_path / "run", NAMES, mini_root)


@pytest.mark.slow
def test_average_precision_of_50_images_is_that_of_the_run(any_names, trained, tmp_path):
    make_mini(tmp_path / "mini", seed=1, train_images=1, val_images=50)
    truth = json.loads((tmp_path / "mini" / "val.json").read_text())
    ids = {each["name"]: each["id"] for each in truth["categories"]}
    figures = []
    for source in (trained, any_names):
        detector, rows = gridclip.load(source), []
        for each in truth["images"]:
            file = tmp_path / "mini" / "images" / each["file_name"]
            for name, score, (x1, y1, x2, y2) in detector.detect(
                file, list(ids), threshold=0.0, limit=300
            ):
                row = {"image_id": each["id"], "category_id": ids[name], "score": score}
                rows.append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
        (tmp_path / "dt.json").write_text(json.dumps(rows))
        output = tmp_path / "metrics.json"
        evaluate_command(
            annotations=tmp_path / "mini" / "val.json",
            detections=tmp_path / "dt.json",
            output=output,
        )
        figures.append(json.loads(output.read_text()))
    assert figures[0]["AP"] > 0
    for name in ("AP", "AP50", "APr", "APc", "APf"):
        assert figures[0][name] == pytest.approx(figures[1][name], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "names are given twice, or not at all"),
        (["--names=a", "--names-as-input"], "names are given twice, or not at all"),
        (["--names=a", "--format=openvino"], "model.onnx is no name for openvino"),
    ],
)
def test_an_export_that_says_too_little_or_too_much_is_refused_at_once(
    tmp_path, capsys, options, said
):
    refused(tmp_path / "no run", tmp_path / "model.onnx", *options)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_two_stages_is_refused_by_name(trained, mini_root, tmp_path, capsys):
    main(
        ["fit", "--config=experiments/mini/vild_text.yaml", f"--run_dir={tmp_path / 'run'}"]
        + [f"--data.init_args.root={mini_root}", "--trainer.max_steps=1"]
        + ["--trainer.val_check_interval=1", "--trainer.logger=false"]
        + ["--trainer.limit_val_batches=1", "--data.init_args.batch_size=2"]
    )
    refused(tmp_path / "run", tmp_path / "model.onnx", "--names-as-input")
    assert "ViLD has a second stage, which is not exported" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a" * 50])
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_file_that_is_no_model_is_refused_with_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        gridclip.load(tmp_path / name)
    with pytest.raises(InputError, match="is not there"):
        gridclip.load(tmp_path / f"other-{name}")


def test_what_a_file_says_of_itself_is_read_back(tmp_path):
    said = Facts(
        version="1",
        detector="GridCLIP",
        run="r",
        names=("a", "ü"),
        width=2,
        vectors=Vectors.of(("a", "ü"), np.eye(2, dtype="f4")),
        text=None,
        fingerprint="f",
        resize=Resize(shortest=(64,), longest=96),
        decoding=DecodeSettings(limit=7, score="independent"),
        nms="inside",
    )
    again = read_facts(said.written(), tmp_path / "x")
    assert again == said
    np.testing.assert_array_equal(again.vectors.matrix(), np.eye(2))


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"gridclip": "{"},
        {"gridclip": '{"form": 2}'},
        {"gridclip": '{"form": 1}'},
        {"gridclip": "[]"},
    ],
    ids=str,
)
def test_a_file_that_says_nothing_or_something_else_is_refused(metadata, tmp_path):
    with pytest.raises(InputError, match=r"model\.onnx"):
        read_facts(metadata, tmp_path / "model.onnx")
