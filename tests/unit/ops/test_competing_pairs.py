"""Scores of names that compete, and their best pairs, against the whole matrix written out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.ops import postprocess
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.postprocess import Competition, DecodeSettings, all_scores, best_pairs


def image(cells=60, names=23, others=9, width=8, seed=0, scale=2.5):
    """Cells, names that are asked for, and what they compete with."""
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(cells + names + others, width, generator=rng)
    parts = F.normalize(vectors, dim=1).split([cells, names, others])
    cosines = Cosines(parts[0], parts[1], torch.tensor(9.0), torch.tensor(-3.0))
    return cosines, torch.rand(cells, generator=rng), Competition(parts[2], torch.tensor(scale))


def shares_and_objectness(cosines, competition):
    """Both of every cell, from the matrix of all names in double precision."""
    everyone = torch.cat([cosines.text, competition.others])
    logits = cosines._replace(text=everyone).logits().double()
    powers = (competition.scale * (logits - logits.amax(1, keepdim=True))).exp()
    return powers / powers.sum(1, keepdim=True), 1 / (1 + (-logits.amax(1)).exp())


def whole_matrix(cosines, central, competition):
    shares, objectness = shares_and_objectness(cosines, competition)
    own = shares[:, : len(cosines.text)]
    return (own * objectness[:, None] * central[:, None]).sqrt()


def assert_best(found, scores, count):
    """These are `count` best entries of the matrix, each once, in order."""
    best = scores.flatten().sort(descending=True).values[:count]
    assert torch.allclose(found.scores.double(), best, rtol=1e-4, atol=1e-12)
    assert torch.allclose(scores[found.cells, found.labels], best, rtol=1e-4, atol=1e-12)
    pairs = list(zip(found.cells.tolist(), found.labels.tolist(), strict=True))
    assert len({*pairs}) == len(pairs)


@pytest.mark.parametrize("block", [1, 50, 2**22])
@pytest.mark.parametrize("others", [0, 1, 40])
@pytest.mark.parametrize(("count", "scale"), [(1, 1.0), (17, 0.3), (59, 3.0), (2000, 2.5)])
def test_the_best_pairs_are_those_of_the_whole_matrix(monkeypatch, block, others, count, scale):
    monkeypatch.setattr(postprocess, "BLOCK", block)
    cosines, central, competition = image(others=others, scale=scale, seed=count + others)
    found = best_pairs(cosines, central, DecodeSettings(candidates=count), competition)
    assert_best(found, whole_matrix(cosines, central, competition), count)


@pytest.mark.parametrize(("cells", "names", "others"), [(1, 1, 0), (1, 1, 5), (7, 3500, 200)])
def test_it_is_so_for_one_pair_and_for_thousands_of_names(cells, names, others):
    cosines, central, competition = image(cells, names, others, width=16)
    found = best_pairs(cosines, central, DecodeSettings(candidates=300), competition)
    assert_best(found, whole_matrix(cosines, central, competition), min(300, cells * names))


def test_equal_scores_fill_the_count_and_no_more():
    cosines, central, competition = image()
    same = cosines._replace(embeddings=cosines.embeddings[:1].expand(60, -1))
    central = torch.full_like(central, 0.5)
    found = best_pairs(same, central, DecodeSettings(candidates=40), competition)
    assert_best(found, whole_matrix(same, central, competition), 40)


def test_scores_below_the_threshold_do_not_leave():
    cosines, central, competition = image()
    scores = whole_matrix(cosines, central, competition)
    found = best_pairs(cosines, central, DecodeSettings(threshold=0.3), competition)
    assert len(found.scores) == (scores >= 0.3).sum() > 0


def test_all_scores_are_the_whole_matrix():
    cosines, central, competition = image()
    expected = whole_matrix(cosines, central, competition)
    assert torch.allclose(all_scores(cosines, central, competition).double(), expected, rtol=1e-4)


def test_scores_stay_numbers_in_their_range_at_the_scale_of_a_clip():
    cosines, central, competition = image(scale=10.0)
    sharp = cosines._replace(scale=torch.tensor(100.0))
    scores = all_scores(sharp, central, competition)
    assert scores.isfinite().all()
    assert 0 <= scores.min() <= scores.max() <= 1
    found = best_pairs(sharp, central, DecodeSettings(candidates=50), competition)
    assert_best(found, whole_matrix(sharp, central, competition), 50)


def test_no_block_grows_with_the_names_that_compete(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.entries = max(self.entries, made.numel())
            return made

    monkeypatch.setattr(postprocess, "BLOCK", 500)
    cosines, central, competition = image(names=90, others=400)
    with Largest() as seen:
        best_pairs(cosines, central, DecodeSettings(candidates=20), competition)
    assert seen.entries <= competition.others.numel() < 60 * 90


@given(
    seed=st.integers(0, 2**31),
    more=st.integers(1, 30),
    scale=st.floats(0.2, 5),
    bias=st.floats(-6, 2),
)
@settings(max_examples=40, deadline=None)
def test_more_names_change_a_score_by_their_share_and_by_the_objectness_they_add(
    seed, more, scale, bias
):
    cosines, central, few = image(cells=40, others=4 + more, seed=seed, scale=scale)
    cosines, central = cosines._replace(bias=torch.tensor(bias)), central.clamp(min=0.01)
    many, few = few, few._replace(others=few.others[:4])
    shares, objectness = shares_and_objectness(cosines, many)
    _, before = shares_and_objectness(cosines, few)
    left = 1 - shares[:, -more:].sum(1)
    one, other = (all_scores(cosines, central, each).double() for each in (few, many))
    ratio = (other / one)[:, 0]
    assert torch.allclose(ratio, (left * objectness / before).sqrt(), rtol=1e-3)
    best_is_old = objectness == before
    assert torch.allclose(ratio[best_is_old], left[best_is_old].sqrt(), rtol=1e-3)
    assert (ratio >= left.sqrt() * 0.999).all()
    assert (ratio <= (left / before).sqrt() * 1.001).all()


def test_which_names_are_asked_for_and_in_what_order_changes_no_score():
    cosines, central, competition = image()
    everyone = torch.cat([cosines.text, competition.others])
    whole = all_scores(
        cosines._replace(text=everyone), central, competition._replace(others=everyone[:0])
    )
    rng = torch.Generator().manual_seed(1)
    for count in (1, 5, 20):
        order = torch.randperm(len(everyone), generator=rng)
        asked, others = order[:count], order[count:]
        some = all_scores(
            cosines._replace(text=everyone[asked]),
            central,
            competition._replace(others=everyone[others]),
        )
        assert torch.allclose(some, whole[:, asked], rtol=1e-5, atol=1e-7)
