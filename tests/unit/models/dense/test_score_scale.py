"""The scale of competing scores, fitted step by step, against one that an optimiser finds."""

import copy

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from two_ranks import on_two_ranks

from gridclip.models.dense.score_scale import SAMPLE, ScoreScale, spread
from gridclip.ops.focal_loss import Cosines


def step(seed=0, scale=14.0, noise=1.0, cells=60, names=20, images=2):
    """Cells of which half show a name, more or less."""
    rng = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(names, 16, generator=rng), dim=1)
    labels = torch.randint(names, (images, cells), generator=rng)
    blur = noise * torch.randn(images, cells, 16, generator=rng) / 4
    embeddings = F.normalize(text[labels] + blur, dim=-1)
    labels[torch.rand(images, cells, generator=rng) < 0.5] = -1
    return Cosines(embeddings, text, torch.tensor(scale), torch.tensor(-4.6)), labels


def best_scale(cosines, labels):
    """The scale of least cross-entropy over names, by scipy."""
    shown = labels.flatten() >= 0
    logits, own = cosines.logits().flatten(0, 1)[shown].double(), labels.flatten()[shown]
    return minimize_scalar(
        lambda s: F.cross_entropy(s * logits, own).item(), bounds=(0.01, 20), method="bounded"
    ).x


@pytest.mark.parametrize(("scale", "noise"), [(2.0, 1.5), (14.0, 1.5), (14.0, 4.0), (4.0, 1.5)])
def test_on_a_network_at_rest_it_becomes_the_scale_of_least_cross_entropy(scale, noise):
    given, fitted = step(scale=scale, noise=noise), ScoreScale()
    for _ in range(200):
        fitted.follow(*given)
    assert fitted.value.item() == pytest.approx(best_scale(*given), rel=1e-3)


def test_it_follows_a_network_that_learns_and_is_steadier_than_single_steps():
    def noisy(seed):
        return step(seed, scale=4.0 if seed < 150 else 8.0, noise=2.0)

    fitted, values = ScoreScale(), []
    for seed in range(300):
        fitted.follow(*noisy(seed))
        values.append(fitted.value.item())
    best = torch.tensor([best_scale(*noisy(seed)) for seed in range(0, 300, 3)])
    values = torch.tensor(values)
    assert values[75:150].mean().item() == pytest.approx(best[25:50].mean().item(), rel=0.05)
    assert values[225:].mean().item() == pytest.approx(best[75:].mean().item(), rel=0.05)
    assert values[225:].std() < 0.3 * best[75:].std()


@pytest.mark.parametrize(("sign", "bound"), [(1, 10.0), (-1, 0.1)])
def test_it_stays_in_its_range_where_all_or_nothing_is_right(sign, bound):
    cosines, labels = step(noise=0.0, scale=1.0)
    fitted = ScoreScale()
    for _ in range(400):
        fitted.follow(cosines._replace(embeddings=sign * cosines.embeddings), labels)
    assert fitted.value.item() == pytest.approx(bound)


@pytest.mark.parametrize("names", [1, 20])
def test_without_positive_cells_or_a_second_name_it_stays_as_it_is(names):
    cosines, labels = step(names=names)
    fitted = ScoreScale()
    if names > 1:
        fitted.follow(cosines, labels)
        labels = torch.full_like(labels, -1)
    before = copy.deepcopy(fitted.state_dict())
    for _ in range(3):
        fitted.follow(cosines, labels)
    assert all(torch.equal(before[name], value) for name, value in fitted.state_dict().items())
    assert before["value"] == 1 if names == 1 else before["value"] != 1


def test_it_goes_on_from_a_checkpoint_bit_for_bit():
    whole, first, second = ScoreScale(), ScoreScale(), ScoreScale()
    for seed in range(20):
        whole.follow(*step(seed))
        if seed < 10:
            first.follow(*step(seed))
        if seed == 10:
            second.load_state_dict(first.state_dict())
        if seed >= 10:
            second.follow(*step(seed))
    assert torch.equal(second.value, whole.value)


def test_half_precision_of_the_networks_changes_nothing():
    exact, rounded = ScoreScale(), ScoreScale()
    exact.follow(*step())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded.follow(*step())
    assert torch.equal(exact.value, rounded.value)


def test_a_sample_is_spread_evenly_and_has_all_rows_where_they_are_few():
    rng = torch.Generator().manual_seed(0)
    for share, most in ((0.0, 5), (0.05, 20), (0.5, 20), (1.0, 20), (1.0, 1000)):
        chosen = torch.rand(200, generator=rng) < share
        rows, counts = spread(chosen, most)
        assert len(rows) == min(most, 200)
        every = chosen.nonzero()[:, 0]
        expected = every
        if len(every) > most:
            expected = torch.stack([every[(n + 1) * len(every) // most - 1] for n in range(most)])
        assert torch.equal(rows[counts], expected)


def _share(rank):
    cosines, labels = step(images=4)
    half = slice(2 * rank, 2 * rank + 2)
    fitted = ScoreScale()
    for _ in range(3):
        fitted.follow(cosines._replace(embeddings=cosines.embeddings[half]), labels[half])
    return fitted.value


@pytest.mark.slow
def test_two_processes_fit_what_one_does_on_the_whole_batch(tmp_path):
    cosines, labels = step(images=4)
    assert (labels >= 0).sum() < SAMPLE
    alone = ScoreScale()
    for _ in range(3):
        alone.follow(cosines, labels)
    first, second = on_two_ranks(_share, tmp_path)
    assert torch.equal(first, second)
    assert torch.allclose(first, alone.value, rtol=1e-5)
