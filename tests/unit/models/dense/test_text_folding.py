"""The folded head says what the head and the text vectors say, for as long as they say it."""

import pytest
import torch
import torch.nn.functional as F

from gridclip.models.dense.grid_head import GridHead, Projections
from gridclip.models.dense.text_folding import Folding
from gridclip.models.encoders.text import TextBank
from gridclip.structures import Vocabulary


class _Words(TextBank):
    width = 40

    def encode(self, vocabulary):
        chance = torch.Generator().manual_seed(len(vocabulary))
        return torch.randn(len(vocabulary), self.width, generator=chance)

    def fingerprint(self):
        return "words"


@pytest.fixture
def head():
    torch.manual_seed(0)
    return GridHead(16, _Words.width, levels=1, num_convs=1)


LEVEL = [torch.randn(2, 16, 5, 7, generator=torch.Generator().manual_seed(1))]
WORDS = Vocabulary(["a", "b", "c"])


def cosines(head, folding=None):
    made = None if folding is None else folding.projection()
    projections = None if made is None else Projections(made)
    text = _Words()(WORDS) if folding is None else folding.names(WORDS).text
    with torch.no_grad():
        embeddings = head(LEVEL, projections)[0].embeddings.flatten(2).mT
    return F.normalize(embeddings, dim=-1) @ text.mT


def test_cosines_of_the_folded_head_are_those_of_the_head(head):
    torch.nn.init.normal_(head.embed.bias)
    folding = Folding(head.embed, _Words())
    assert folding.projection().weight.shape == (17, 16, 1, 1)  # in place of 40
    assert folding.names(WORDS).text.shape == (3, 17)
    assert torch.allclose(cosines(head, folding), cosines(head), atol=1e-5)


def test_nothing_is_folded_where_it_would_not_be_cheaper_or_is_not_wanted():
    wide = GridHead(40, _Words.width, levels=1, num_convs=0)
    assert Folding(wide.embed, _Words()).projection() is None
    narrow = GridHead(16, _Words.width, levels=1, num_convs=0)
    folding = Folding(narrow.embed, _Words(), enabled=False)
    assert folding.projection() is None
    assert torch.equal(folding.names(WORDS).text, _Words()(WORDS))


@pytest.mark.parametrize("fused", [False, True])
def test_what_was_folded_is_forgotten_when_the_weights_change(head, fused):
    folding = Folding(head.embed, _Words())
    folding.names(WORDS)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, fused=fused)
    head(LEVEL)[0].embeddings.square().mean().backward()
    optimizer.step()
    assert torch.allclose(cosines(head, folding), cosines(head), atol=1e-5)
    other = GridHead(16, _Words.width, levels=1, num_convs=1)
    head.load_state_dict(other.state_dict())
    assert torch.allclose(cosines(head, folding), cosines(other), atol=1e-5)
    head.double()
    folding.projection()
    assert folding.projection().weight.dtype == torch.float64


def test_names_and_their_prototypes_are_made_once(head, monkeypatch):
    folding = Folding(head.embed, _Words())
    first = folding.names(WORDS)
    assert first.prototypes is folding.names(WORDS).prototypes
    monkeypatch.setattr(folding.text, "forward", lambda _: pytest.fail("made again"))
    assert folding.names(WORDS) is first


def test_names_are_kept_in_single_precision_whatever_the_step_runs_in(head):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = Folding(head.embed, _Words()).names(WORDS)
    exact = Folding(head.embed, _Words()).names(WORDS)
    assert torch.equal(rounded.text, exact.text)
    assert rounded.prototypes.dtype == torch.float32
