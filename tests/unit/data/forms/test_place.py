"""A root of another form: what a row makes of it, what is kept of it, and its side file."""

import json
import os
import shutil

import pytest

from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.datamodules.hybrid import HybridData
from gridclip.data.datasets.boxed_concepts import DetectionConcepts, DetectionSource
from gridclip.data.forms.place import DataPlace
from gridclip.data.forms.source import convert_source
from gridclip.data.transforms.augment import Resize
from gridclip.io.errors import InputError

SMALL = Resize(shortest=(48,), longest=96)


@pytest.fixture
def root(tmp_path, photograph):
    """A YOLO folder with two images to train on, one to evaluate on, and names cat and dog."""
    lines = {"train/a": "0 0.5 0.5 0.2 0.4\n", "train/b": "1 0.5 0.5 0.2 0.4\n"}
    for path, line in (lines | {"val/c": "1 0.25 0.5 0.2 0.4\n"}).items():
        photograph(tmp_path / "images" / f"{path}.png")
        label = tmp_path / "labels" / f"{path}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(line)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\nval: images/val\n")
    return tmp_path


def data(root, **settings):
    settings = {
        "num_workers": 0,
        "resize": SMALL,
        "val_resize": SMALL,
        "rare_split": "all",
    } | settings
    return DetectionData(str(root), **settings)


@pytest.mark.parametrize(
    "named",
    [{}, {"train": "lvis_v1_train.json", "val": "lvis_v1_val.json", "images": "."}],
    ids=["small rows", "rows of LVIS"],
)
def test_a_root_of_yolo_gives_its_parts_whatever_files_a_row_names(root, named):
    module = data(root, **named)
    module.setup()
    assert module.train_set.annotations.paths.tolist() == [
        "images/train/a.png",
        "images/train/b.png",
    ]
    assert module.val_set.annotations.paths.tolist() == ["images/val/c.png"]
    assert module.val_set.vocabulary.names == ("cat", "dog")
    assert module.val_set.annotations.file.parts[-2:] == (root.name, "val.json")
    (batch,) = module.val_dataloader()
    assert batch.targets[0].labels.tolist() == [1]
    assert batch.targets[0].boxes.flatten().tolist() == pytest.approx([14.4, 14.4, 33.6, 33.6])


def test_another_part_is_evaluated_by_its_name(root):
    (root / "images" / "val").rename(root / "images" / "test")
    (root / "labels" / "val").rename(root / "labels" / "test")
    assert len(data(root, val="test").val_set) == 1


def test_hybrid_data_and_its_sources_take_such_a_root_too(root):
    source = DetectionSource(root=str(root), rare_split="all")
    assert DetectionConcepts(source).names() == ["cat", "dog"]
    module = HybridData(detection=source, root=str(root), num_workers=0)
    module.setup()
    assert len(module.val_set) == 1


def test_a_file_of_the_row_comes_before_other_forms(root):
    shutil.copy(convert_to(root, "val"), root / "val.json")
    place = DataPlace(root, "val.json", ".", "val").read()
    assert place.annotations.file == root / "val.json"


def convert_to(root, split):
    document = convert_source(root, "yolo", split).document
    file = root / f"{split}.copy"
    file.write_text(json.dumps(document))
    return file


def test_a_root_is_converted_once_until_one_of_its_files_changes(root):
    place = DataPlace(root, "train.json", "images", "train")
    first = place.read().annotations
    kept = first.file.stat().st_mtime_ns
    assert place.read().annotations.file.stat().st_mtime_ns == kept
    label = root / "labels" / "train" / "a.txt"
    label.write_text("1 0.5 0.5 0.2 0.4\n")
    os.utime(label, ns=(1, 1))
    assert place.read().annotations.labels.values.tolist() == [1, 1]
    label.write_text("2 0.5 0.5 0.2 0.4\n")
    with pytest.raises(InputError, match=r"a\.txt line 1"):
        place.read()
    assert len(place.read("drop").annotations.labels.values) == 1


def test_names_without_frequencies_train_by_rare_split_all_alone(root):
    with pytest.raises(InputError, match=r"no category has a frequency.*\n.*side.json"):
        data(root, rare_split="base_only").train_set  # noqa: B018


def test_a_side_file_gives_frequencies_absences_and_groups(root):
    side = {
        "frequency": {"cat": "r", "dog": "f"},
        "negative": {"images/val/c.png": ["cat"]},
        "category_groups": {"pets": ["cat", "dog"]},
    }
    (root / "side.json").write_text(json.dumps(side))
    module = data(root, rare_split="base_only")
    assert module.train_set.vocabulary.names == ("dog",)
    found = module.val_set.annotations
    assert not found.scored.exhaustive
    assert found.negative.values.tolist() == [0]
    assert found.groups == {"pets": [0, 1]}


@pytest.mark.parametrize(
    ("side", "problem"),
    [
        ({"frequency": {"cat": "r"}}, "dog: no frequency"),
        ({"frequency": {"cat": "r", "dog": "x"}}, "other than r, c or f"),
        ({"frequency": {"cat": "r", "dog": "f", "owl": "f"}}, "names owl"),
        ({"negative": {"a": ["owl"]}}, "names owl"),
        ({"negative": {"a": "cat"}}, "no list of names"),
        ({"negative": ["cat"]}, "no json object"),
        ({"negatives": {}}, "no key of a side file"),
        ([], "no json object"),
    ],
)
def test_a_side_file_at_fault_is_refused(root, side, problem):
    (root / "side.json").write_text(json.dumps(side))
    with pytest.raises(InputError, match=problem):
        data(root).train_set  # noqa: B018


def test_a_folder_of_no_form_says_what_it_should_be(tmp_path):
    with pytest.raises(
        InputError, match=r"train\.json: the annotation file does not exist\n.*YOLO"
    ):
        data(tmp_path).train_set  # noqa: B018
