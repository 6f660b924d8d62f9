import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gridclip.models.encoders.text import NounVectors
from gridclip.structures import Vocabulary

NAMES = ["dog", "fire_hydrant", "person", "bus"]
MORE = ["dog", "tree"]


@pytest.fixture
def bank(tmp_path):
    rows = [
        {"id": n + 1, "name": name, "synonyms": ["man", "grown_up"] if name == "person" else []}
        for n, name in enumerate(NAMES)
    ]
    (tmp_path / "names.json").write_text(json.dumps({"categories": rows}))
    (tmp_path / "more.txt").write_text("\n".join(MORE))
    chance = np.random.default_rng(0)
    for name, count in (("names", len(NAMES)), ("more", len(MORE))):
        np.save(tmp_path / f"{name}.npy", chance.normal(size=(count, 8)))
    return NounVectors(
        str(tmp_path / "names.npy"),
        str(tmp_path / "names.json"),
        others={str(tmp_path / "more.npy"): str(tmp_path / "more.txt")},
    )


def _of(bank, phrase):
    return bank(Vocabulary([phrase]))[0]


@pytest.mark.parametrize(
    ("phrase", "noun"),
    [
        ("two black dogs", "dog"),
        ("a red fire hydrant", "fire_hydrant"),
        ("three buses", "bus"),
        ("an old man", "person"),
        ("Grown up", "person"),
        ("the tall trees.", "tree"),
        ("man on a dog", "dog"),
    ],
)
def test_the_longest_name_at_its_end_stands_for_a_phrase(bank, phrase, noun):
    assert torch.equal(_of(bank, phrase), _of(bank, noun))


def test_a_caption_is_the_mean_of_the_names_that_it_says(bank):
    said = _of(bank, "A man walks his dog slowly")
    mean = _of(bank, "person") + _of(bank, "dog")
    assert torch.allclose(said, F.normalize(mean, dim=0), atol=1e-6)


def test_of_what_nobody_knows_the_vector_is_zero(bank):
    assert not _of(bank, "pure bliss").any()


def test_the_first_file_counts_and_names_are_told_as_they_are(bank, tmp_path):
    first = torch.from_numpy(np.load(tmp_path / "names.npy")[0]).float()
    assert torch.allclose(_of(bank, "dog"), F.normalize(first, dim=0))
    assert torch.allclose(bank(Vocabulary(NAMES)).norm(dim=1), torch.ones(len(NAMES)))
