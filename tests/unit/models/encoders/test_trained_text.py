"""A text tower that learns says what open_clip's says, and remembers nothing for too long."""

import pytest
import torch
import torch.nn.functional as F

from gridclip.io.errors import InputError
from gridclip.models.encoders import trained_text
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText
from gridclip.models.encoders.trained_text import TrainedText
from gridclip.structures import Vocabulary

MINI = ClipModel()
NAMES = Vocabulary(["red_star", "a green ring beside a blue moon", "bat_(animal)"])


@pytest.fixture(scope="module")
def bank():
    return TrainedText(MINI)


@pytest.fixture(scope="module")
def resting():
    return TrainedText(MINI, trained=False)


@pytest.fixture(scope="module")
def clip():
    return MINI.create()


def test_short_sentences_have_open_clips_own_vectors(bank, clip):
    said = ["red star", "a green ring beside a blue moon", "bat animal"]
    truth = F.normalize(clip.encode_text(MINI.tokenizer()(said)), dim=-1)
    assert torch.allclose(bank.train()(NAMES), truth, atol=1e-5)
    assert torch.allclose(bank.eval()(NAMES), truth, atol=1e-5)


def test_the_context_cuts_the_end_and_keeps_the_token_that_ends_it(clip):
    bank, long = TrainedText(MINI, context=6), "one two three four five six seven"
    tokens = MINI.tokenizer()([long])
    tokens[0, 5], tokens[0, 6:] = tokens.max(), 0
    truth = F.normalize(clip.encode_text(tokens), dim=-1)
    assert torch.allclose(bank(Vocabulary([long])), truth, atol=1e-5)
    same = bank(Vocabulary(["one two three four", "one two three four unlike"]))
    assert torch.allclose(same[0], same[1], atol=1e-6)


def test_a_definition_follows_its_name(tmp_path, clip):
    (tmp_path / "d.csv").write_text("red star,a plane figure of five points\n")
    (tmp_path / "e.csv").write_text("red star,of the second file\n")
    files = (str(tmp_path / "d.csv"), str(tmp_path / "e.csv"))
    bank = TrainedText(MINI, definitions=files)
    assert bank.sentences(NAMES)[0] == "red star, a plane figure of five points"
    assert bank.sentences(NAMES)[2] == "bat animal"
    assert bank.fingerprint() != TrainedText(MINI).fingerprint()
    # What is cut off is the end of the definition, never the name.
    cut = TrainedText(MINI, context=4, definitions=(str(tmp_path / "d.csv"),))
    plain = TrainedText(MINI, context=4)
    assert torch.allclose(cut(NAMES), plain(NAMES), atol=1e-6)


def test_while_training_every_weight_of_the_tower_learns():
    bank = TrainedText(MINI)
    bank(NAMES)[:, 0].sum().backward()
    idle = [n for n, p in bank.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert sum(p.numel() for p in bank.parameters()) > 0


def test_new_weights_have_new_vectors():
    bank, other = TrainedText(MINI).eval(), TrainedText(MINI).eval()
    before, version = bank(NAMES), bank.version
    assert bank(NAMES) is before
    with torch.no_grad():
        other.tower.text_projection.mul_(torch.linspace(0.5, 2, other.width))
    bank.load_state_dict(other.state_dict())
    assert torch.allclose(bank(NAMES), other(NAMES))
    assert not torch.allclose(bank(NAMES), before)
    assert bank.version > version
    bank.train()
    with torch.no_grad():
        bank.tower.text_projection.mul_(torch.linspace(2, 0.5, bank.width))
    assert not torch.allclose(bank.eval()(NAMES), other(NAMES))


def test_a_resting_tower_is_in_no_checkpoint_and_speaks_each_sentence_once(resting, monkeypatch):
    assert not resting.state_dict()
    assert not list(resting.parameters())
    resting.train()
    plain = ClipText(MINI, templates=("{}",))
    assert torch.allclose(resting(NAMES), plain(NAMES), atol=1e-5)
    said, speak = [], resting._sentences
    monkeypatch.setattr(resting, "_sentences", lambda some: said.append(some) or speak(some))
    more = resting(Vocabulary(["red_star", "a new thing"]))
    assert said == [["a new thing"]]
    assert torch.allclose(more[0], resting(NAMES)[0])


def test_a_resting_tower_does_not_remember_without_end(monkeypatch):
    resting = TrainedText(MINI, trained=False)
    monkeypatch.setattr(trained_text, "KEPT", 4)
    for number in range(4):
        resting(Vocabulary([f"{number} one", f"{number} two"]))
        assert len(resting._remembered) <= 4


@pytest.mark.parametrize("context", [2, 33])
def test_a_context_that_the_tower_has_not_is_refused(context):
    with pytest.raises(InputError, match="context"):
        TrainedText(MINI, context=context)
