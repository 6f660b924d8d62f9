import json

import numpy as np
import open_clip
import pytest
import torch

from gridclip.data.category_names import prompt_name
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText, TextVectors
from gridclip.structures import Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")
NAMES = Vocabulary(["red star", "bat_(animal)"])


def test_names_are_said_without_underscores_and_brackets():
    assert prompt_name("bat_(animal)") == "bat animal"
    assert prompt_name("alarm_clock") == "alarm clock"


def test_a_names_vector_is_the_mean_of_the_unit_vectors_of_its_prompts():
    torch.manual_seed(0)
    text = ClipText(MINI, templates=("a {}", "a photo of a {}"), batch_size=3)
    model, tokenize = text.tower.network, open_clip.get_tokenizer("gridclip-mini")
    for row, name in zip(text(NAMES), ["red star", "bat animal"], strict=True):
        total = torch.zeros(text.width)
        for sentence in (f"a {name}", f"a photo of a {name}"):
            vector = model.encode_text(tokenize([sentence]))[0]
            total += vector / vector.norm()
        assert torch.allclose(row, total / total.norm(), atol=1e-5)


def test_vectors_are_encoded_once_per_vocabulary(monkeypatch):
    text = ClipText(MINI)
    first = text(NAMES)
    monkeypatch.setattr(text, "encode", lambda _: pytest.fail("encoded twice"))
    assert text(Vocabulary(NAMES.names)) is first


def test_vectors_of_given_weights_survive_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("GRIDCLIP_CACHE", str(tmp_path))
    file = tmp_path / "weights.pt"
    torch.save(MINI.create().state_dict(), file)
    clip = ClipModel(name="gridclip-mini", weights=str(file))
    made = ClipText(clip)(NAMES)
    again = ClipText(clip)
    monkeypatch.setattr(again, "_sentences", lambda _: pytest.fail("encoded again"))
    assert torch.equal(again(NAMES), made)


def test_the_text_tower_is_frozen_and_stays_out_of_checkpoints():
    text = ClipText(MINI)
    assert list(text.parameters()) == []
    assert text.state_dict() == {}
    assert not text.train().tower.network.training


def test_the_frozen_tower_follows_its_detector_to_another_type_or_device():
    text = ClipText(MINI).to(torch.float64)
    assert {p.dtype for p in text.tower.network.parameters()} == {torch.float64}


def test_a_template_without_a_place_for_the_name_is_refused():
    with pytest.raises(InputError, match=r"templates.*no place for the name"):
        ClipText(MINI, templates=("a photo",))


def _vectors(folder, rows, names):
    np.save(folder / "v.npy", np.random.default_rng(0).normal(size=(rows, 4)).astype("float16"))
    categories = [{"id": i + 5, "name": name} for i, name in enumerate(names)]
    # The file lists them backwards: the order of the ids counts.
    (folder / "n.json").write_text(json.dumps({"categories": categories[::-1]}))
    return TextVectors(str(folder / "v.npy"), str(folder / "n.json"))


def test_precomputed_vectors_are_found_by_name_and_normalised(tmp_path):
    text = _vectors(tmp_path, 3, ["cat", "dog", "cup"])
    row = torch.from_numpy(np.load(tmp_path / "v.npy")[2].astype("float32"))
    assert torch.allclose(text(Vocabulary(["cup", "cat"]))[0], row / row.norm(), atol=1e-6)


def test_centred_vectors_lose_what_all_names_share_and_are_another_language(tmp_path):
    names = ["cat", "dog", "cup", "bat"]
    plain = _vectors(tmp_path, 4, names)
    centred = TextVectors(str(tmp_path / "v.npy"), str(tmp_path / "n.json"), centred=True)
    rows = np.load(tmp_path / "v.npy").astype("float64")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows -= rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # Two of the names only: the mean is the file's, whatever the vocabulary.
    assert np.allclose(centred(Vocabulary(["bat", "dog"])), rows[[3, 1]], atol=1e-6)
    assert centred.fingerprint() != plain.fingerprint()


def test_vectors_of_another_number_than_names_are_refused_with_the_file(tmp_path):
    with pytest.raises(InputError, match=r"v\.npy: 3 vectors for the 2 names"):
        _vectors(tmp_path, 3, ["cat", "dog"])


def test_a_name_without_a_vector_is_named(tmp_path):
    text = _vectors(tmp_path, 2, ["cat", "dog"])
    with pytest.raises(InputError, match="no vector for 1 names, first: zebra"):
        text(Vocabulary(["cat", "zebra"]))


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_a_vector_file_that_is_none_is_refused_with_the_file(tmp_path, content):
    file = tmp_path / "v.npy"
    if content is not None:
        file.write_bytes(content)
    (tmp_path / "n.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"v\.npy"):
        TextVectors(str(file), str(tmp_path / "n.txt"))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"name": "RN5O", "weights": "random"}, "did you mean RN50"),
        ({"name": "RN50", "weights": "mini"}, "bundled weights belong to gridclip-mini"),
        ({"name": "gridclip-mini", "weights": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_an_unknown_clip_is_refused_with_the_fix(clip, message):
    with pytest.raises(InputError, match=message):
        ClipModel(**clip).create()


def test_vectors_do_not_depend_on_the_precision_of_the_step_that_asks_first():
    text = ClipText(MINI)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = text(NAMES)
    text._kept.clear()
    assert torch.equal(first, text(NAMES))
