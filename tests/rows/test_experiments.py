"""Every row of the table builds, and says what it is."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from gridclip.engine.lightning_cli import build
from gridclip.models.base import Detector

ROOT = Path(__file__).parents[2]
ROWS = sorted(
    path for path in (ROOT / "experiments").rglob("*.yaml") if path.parent.name != "shared"
)
CLIPS = (
    "backbone.init_args.clip.weights",
    "regions.init_args.clip.weights",
    "text.init_args.clip.weights",
    "teacher.init_args.clip.weights",
)


@pytest.fixture
def stand_ins(tmp_path):
    """Arguments for what a row names and this machine lacks: weights, vectors, checkpoints."""
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(3, 512)))
    (tmp_path / "names.txt").write_text("cat\ndog\ncup\n")

    def arguments(row: dict) -> list[str]:
        detector = row["model"]["detector"]["init_args"]
        given = [*_random_weights(detector)]
        if "concepts" in detector:
            given.append(f"--model.detector.init_args.concepts={tmp_path / 'names.txt'}")
        if "init_from" in row["model"]:
            given.append("--model.init_from=null")
        for at, holder in _with_texts(detector).items():
            if holder["text"]["class_path"] in ("TextVectors", "NounVectors"):
                text = f"--model.detector.init_args.{at}text.init_args"
                given += [f"{text}.vectors={tmp_path / 'vectors.npy'}"]
                given += [f"{text}.names={tmp_path / 'names.txt'}"]
        return given + _unreachable(detector)

    return arguments


def _unreachable(detector):
    """Without what timm would download, other vectors than the first, and definitions."""
    init, given = "--model.detector.init_args", []
    for at, holder in _with_texts(detector).items():
        text = holder["text"]["init_args"]
        given += [f"{init}.{at}text.init_args.others={{}}"] if "others" in text else []
        given += [f"{init}.{at}text.init_args.definitions=[]"] if "definitions" in text else []
    if detector.get("backbone", {}).get("init_args", {}).get("pretrained"):
        given.append(f"{init}.backbone.init_args.pretrained=false")
    return given


def _with_proposer(detector):
    """The detector, and that which proposes for it, by what their arguments' names begin with."""
    proposer = detector.get("proposer")
    return {"": detector} | ({"proposer.init_args.": proposer["init_args"]} if proposer else {})


def _with_texts(detector):
    """The same, and encoders of regions: all that has a text of its own."""
    found = _with_proposer(detector)
    if "ensemble" in detector:
        at = "ensemble.init_args.regions.init_args."
        found[at] = detector["ensemble"]["init_args"]["regions"]["init_args"]
    if "text" in detector.get("regions", {}).get("init_args", {}):
        found["regions.init_args."] = detector["regions"]["init_args"]
    return found


def _random_weights(detector):
    for at, holder in _with_proposer(detector).items():
        for key in CLIPS:
            value = holder
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value == "openai":
                yield f"--model.detector.init_args.{at}{key}=random"


@pytest.fixture
def quick_start(monkeypatch):
    """Without the random weights of full-size networks, which take most of the time to build."""
    for name in ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(f"torch.nn.init.{name}", lambda tensor, *_, **__: tensor)
    monkeypatch.setattr("torch.Tensor.normal_", lambda tensor, *_, **__: tensor)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: str(path.relative_to(ROOT / "experiments")))
def test_every_row_of_the_table_builds(path, stand_ins, quick_start, monkeypatch):
    monkeypatch.chdir(ROOT)
    row = yaml.safe_load(path.read_text())
    built = build([f"--config={path}", *stand_ins(row)])
    assert isinstance(built.model.detector, Detector)
    assert str(built.config.paper.table)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_that_was_never_trained_says_so_in_its_head(path):
    head = "".join(line for line in path.open() if line.startswith("#"))
    trained = yaml.safe_load(path.read_text())["paper"]["trained"]
    assert trained != ("NEVER TRAINED" in head)
