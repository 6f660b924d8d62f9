"""The best pairs without the matrix, against the whole matrix sorted."""

import pytest
import torch
import torch.nn.functional as F

from gridclip.ops import postprocess
from gridclip.ops.focal_loss import Cosines
from gridclip.ops.postprocess import DecodeSettings, best_pairs, group, promising


def image(cells=60, names=23, width=8, seed=0):
    chance = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(cells, width, generator=chance), dim=1)
    text = F.normalize(torch.randn(names, width, generator=chance), dim=1)
    cosines = Cosines(embeddings, text, torch.tensor(9.0), torch.tensor(-3.0))
    return cosines, torch.rand(cells, generator=chance)


def every_pair(cosines, central):
    """(score, cell, name) of all pairs, best first."""
    scores = (cosines.logits().sigmoid() * central[:, None]).sqrt()
    pairs = [
        (scores[cell, name].item(), cell, name)
        for cell in range(scores.shape[0])
        for name in range(scores.shape[1])
    ]
    return sorted(pairs, reverse=True)


@pytest.mark.parametrize("block", [1, 50, 2**22])
@pytest.mark.parametrize(("count", "threshold"), [(1, 0.0), (17, 0.0), (59, 0.4), (300, 0.0)])
def test_the_best_pairs_are_those_of_the_whole_matrix(monkeypatch, block, count, threshold):
    monkeypatch.setattr(postprocess, "BLOCK", block)
    cosines, central = image()
    found = best_pairs(cosines, central, DecodeSettings(candidates=count, threshold=threshold))
    truth = [pair for pair in every_pair(cosines, central)[:count] if pair[0] >= threshold]
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in truth], rel=1e-5)
    assert found.cells.tolist() == [cell for _, cell, _ in truth]
    assert found.labels.tolist() == [name for _, _, name in truth]


def test_more_pairs_than_there_are_is_all_of_them():
    cosines, central = image(cells=3, names=2)
    found = best_pairs(cosines, central, DecodeSettings(candidates=100))
    assert len(found.scores) == 6


def test_equal_scores_fill_the_count_and_no_more():
    cosines, central = image()
    same = cosines._replace(embeddings=cosines.embeddings[:1].expand(60, -1))
    found = best_pairs(same, torch.full_like(central, 0.5), DecodeSettings(candidates=40))
    assert len(found.scores) == 40
    assert (found.scores == found.scores[0]).all()


def test_no_block_grows_with_the_vocabulary(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.entries = max(self.entries, made.numel())
            return made

    monkeypatch.setattr(postprocess, "BLOCK", 500)
    cosines, central = image(names=400)
    with Largest() as seen:
        best_pairs(cosines, central, DecodeSettings(candidates=20))
    assert seen.entries <= max(500, cosines.text.numel())


def test_promising_cells_are_those_that_show_a_name_of_the_vocabulary():
    """Names in a narrow cone, as CLIP's are; the background has learnt to be far from all."""
    chance = torch.Generator().manual_seed(3)
    cone = torch.randn(64, generator=chance)
    text = F.normalize(cone + 1.1 * torch.randn(900, 64, generator=chance), dim=1)
    shown = text[torch.randint(900, (40,), generator=chance)]
    noise = torch.randn(1000, 64, generator=chance) / 8
    embeddings = F.normalize(0.7 * noise - 0.2 * cone / cone.norm(), dim=1)
    embeddings[:40] = F.normalize(shown + 0.8 * noise[:40], dim=1)
    prototypes = Cosines(embeddings, group(text, 32), torch.tensor(14.0), torch.tensor(-4.6))
    kept = promising(prototypes, torch.full((1000,), 0.5), 60)
    assert len(kept) == 60
    assert set(range(40)) <= set(kept.tolist())


def test_cells_that_are_not_central_are_less_promising():
    cosines, central = image()
    one = cosines._replace(embeddings=cosines.embeddings[:1].expand(60, -1))
    kept = promising(one, central, 5)
    assert sorted(kept.tolist()) == sorted(central.topk(5).indices.tolist())


def test_groups_are_the_middles_of_their_members_and_the_same_each_time():
    chance = torch.Generator().manual_seed(0)
    middles = F.normalize(torch.randn(5, 32, generator=chance), dim=1)
    members = middles.repeat(30, 1) + 0.05 * torch.randn(150, 32, generator=chance)
    vectors = F.normalize(members, dim=1)[torch.arange(150).view(30, 5).T.flatten()]
    found = group(vectors, 5)
    assert (found @ middles.mT).amax(0).min() > 0.99
    assert torch.allclose(found.norm(dim=1), torch.ones(5))
    assert torch.equal(found, group(vectors, 5))
    assert torch.equal(group(vectors[:4], 5), vectors[:4])
