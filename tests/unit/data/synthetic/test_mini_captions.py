"""Pairs and phrases of the mini world: true to their images, and nothing rare is boxed."""

import hashlib
import json
import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from gridclip.data.synthetic.mini_captions import say
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.data.synthetic.mini_world import KINDS, RARE_SHAPES, SYNONYMS, is_base
from gridclip.io.errors import InputError

COUNT = 120
PLAIN = {other: word for word, others in SYNONYMS.items() for other in others}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mini"
    make_mini(folder, seed=1, train_images=COUNT, val_images=4)
    return folder


def plain(text):
    """The same with every synonym undone."""
    for other in sorted(PLAIN, key=len, reverse=True):  # "half disc" before "disc"
        text = text.replace(other, PLAIN[other])
    return text


def kinds_in(caption):
    text = plain(caption)
    return {kind for kind in KINDS if " ".join(kind) in text}


def load(folder, name):
    return json.loads((folder / "hybrid" / name).read_text())


def pairs(folder):
    lines = (folder / "hybrid" / "pairs.jsonl").read_text().splitlines()
    found = {}
    for line in map(json.loads, lines):
        found.setdefault(line["file_name"], []).append(line["caption"])
    return found


def test_what_was_drawn_before_keeps_its_bytes(tmp_path):
    """Published figures depend on them; the sums are of the package before there were pairs."""
    make_mini(tmp_path / "mini", seed=5, train_images=12, val_images=6)
    sums = {}
    for name in ("train.json", "val.json", "captions.jsonl"):
        content = (tmp_path / "mini" / name).read_text()
        if name.endswith(".json"):  # groups and polygons came later, and change nothing else
            document = json.loads(content)
            assert document.pop("category_groups")
            assert all(each["segmentation"] for each in document["annotations"])
            for each in document["annotations"]:
                each["segmentation"] = []
            content = json.dumps(document)
        sums[name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert sums == {
        "train.json": "3c5ee55e8740bea1",
        "val.json": "d6961df7e43720e7",
        "captions.jsonl": "61ac4ef7feb0c5b9",
    }


def test_a_finished_folder_of_an_older_package_gets_what_it_lacks(folder, tmp_path):
    copy = tmp_path / "mini"
    shutil.copytree(folder, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    shutil.rmtree(copy / "hybrid")
    make_mini(copy, seed=1, train_images=COUNT, val_images=4)
    for path, time in before.items():
        original = folder / path.relative_to(copy)
        assert path.read_bytes() == original.read_bytes()
        assert (path.stat().st_mtime_ns == time) == ("hybrid" not in path.parts)


def test_a_folder_with_something_else_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mini")
    (tmp_path / "mini" / "hybrid" / "hybrid.json").write_text("{}")
    with pytest.raises(InputError, match=r"hybrid: dir: holds pairs and phrases"):
        make_mini(tmp_path / "mini", seed=1, train_images=COUNT, val_images=4)


def test_pairs_speak_of_every_kind_about_equally_often(folder):
    said = pairs(folder)
    assert len(said) == COUNT
    assert all(len(captions) == 2 for captions in said.values())
    counts = Counter()
    for path, (one, two) in said.items():
        assert (folder / "hybrid" / "images" / path).is_file()
        assert kinds_in(one) == kinds_in(two) != set()
        counts.update(kinds_in(one))
    assert {kind.shape for kind in counts} >= set(RARE_SHAPES)
    rare = sum(count for kind, count in counts.items() if not is_base(kind))
    assert rare / counts.total() == pytest.approx(96 / 288, abs=0.05)
    assert max(counts.values()) <= 3


def test_phrases_with_boxes_are_base_kinds_in_other_words(folder):
    content = load(folder, "grounding.json")
    assert len(content["images"]) == COUNT // 2
    captions = {image["id"]: image["caption"] for image in content["images"]}
    phrases = [
        captions[each["image_id"]][slice(*each["tokens_positive"][0])]
        for each in content["annotations"]
    ]
    forms = Counter()
    for phrase in phrases:
        said = plain(phrase).split()
        assert any(
            is_base(kind)
            and (kind.colour, kind.shape) == (said[0], said[-1])
            and {*said} <= {*kind}
            for kind in KINDS
        )
        other_words = "other words" if plain(phrase) != phrase else "name"
        forms["short" if len(said) == 2 else other_words] += 1
    assert min(forms.values()) > 15
    assert any(not is_base(kind) for caption in captions.values() for kind in kinds_in(caption))


def test_each_object_is_named_where_the_span_says():
    rng = np.random.default_rng(0)
    for _ in range(200):
        kinds = [KINDS[row] for row in rng.integers(288, size=rng.integers(1, 6))]
        said = say(rng, kinds)
        pairs = Counter((kind.colour, kind.shape) for kind in kinds)
        assert "<" not in said.caption
        for kind, (start, end) in zip(kinds, said.spans, strict=True):
            phrase = plain(said.caption[start:end])
            short = f"{kind.colour} {kind.shape}"
            assert phrase == " ".join(kind) or (phrase == short and pairs[short_of(kind)] == 1)
        spans = sorted(said.spans)
        assert all(one[1] < two[0] for one, two in pairwise(spans))


def short_of(kind):
    return kind.colour, kind.shape
