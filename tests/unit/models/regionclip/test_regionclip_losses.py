"""The losses of RegionCLIP's pre-training against loops in double precision, alone and in two."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import distributed
from two_ranks import on_two_ranks

from gridclip.models.regionclip.pretraining import concept_distillation, confident, region_contrast
from gridclip.ops.losses import info_nce

TAU = 0.1
SHARES = {"uneven": (5, 2), "even": (3, 3), "first empty": (0, 4), "last empty": (4, 0)}


def unit(count, seed, width=6):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator, dtype=torch.double), dim=-1)


def labels_of(count):
    return torch.tensor([1, 4, 1, 0, 4, 1, 2])[:count]


CONCEPTS = unit(5, seed=100)


def region_loop(regions, labels, tau):
    """As the released code has it: a column a region, equal labels not taken together."""
    terms = []
    for i in range(len(labels)):
        powers = [math.exp(float(regions[i] @ CONCEPTS[m]) / tau) for m in labels]
        positive = sum(p for p, m in zip(powers, labels, strict=True) if m == labels[i])
        terms.append(-math.log(positive / sum(powers)))
    return sum(terms) / len(terms)


def distillation_loop(student, teacher, tau):
    found = 0.0
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(c / tau) for c in row] for row in (mine, theirs))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        found += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return found / len(student)


def image_loop(images, captions, tau):
    powers = [[math.exp(float(i @ c) / tau) for c in captions] for i in images]
    count, terms = len(images), 0.0
    for n in range(count):
        terms -= math.log(powers[n][n] / sum(powers[n]))
        terms -= math.log(powers[n][n] / sum(powers[m][n] for m in range(count)))
    return terms / 2 / count


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_equal_labels_are_positives_and_every_region_is_a_column(tau):
    regions, labels = unit(7, 1), labels_of(7)
    loss = region_contrast(regions @ CONCEPTS.T, labels, tau)
    assert loss.item() == pytest.approx(region_loop(regions, labels.tolist(), tau), rel=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_distillation_is_the_divergence_over_the_whole_pool(tau):
    student, teacher = unit(7, 1) @ CONCEPTS.T, unit(7, 2) @ CONCEPTS.T
    loss = concept_distillation(student, teacher, tau)
    assert loss.item() == pytest.approx(distillation_loop(student, teacher, tau), rel=1e-12)
    assert concept_distillation(teacher, teacher, tau).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_images_find_captions_and_captions_images(tau):
    images, captions = unit(7, 1), unit(7, 2)
    loss = info_nce(images, captions, tau)
    assert loss.item() == pytest.approx(image_loop(images, captions, tau), rel=1e-12)


def test_gradients_are_those_of_differences():
    leaves = [unit(4, seed).requires_grad_() for seed in (1, 2)]
    labels = labels_of(4)
    check = torch.autograd.gradcheck
    assert check(lambda x: region_contrast(x @ CONCEPTS.T, labels, TAU), leaves[:1])
    assert check(
        lambda x: concept_distillation(x @ CONCEPTS.T, CONCEPTS[:4] @ CONCEPTS.T, TAU), leaves[:1]
    )
    assert check(lambda x, y: info_nce(x, y, TAU), leaves)


def test_the_teacher_gets_no_gradient():
    student, teacher = (unit(4, seed).requires_grad_() for seed in (1, 2))
    concept_distillation(student @ CONCEPTS.T, teacher @ CONCEPTS.T, TAU).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_published_temperature_overflows_nothing_in_single_precision():
    cosines = torch.tensor([[-1.0, 1, 1], [1, -1, -1]], requires_grad=True)
    labels = torch.tensor([0, 1])  # as wrong as can be
    loss = region_contrast(cosines, labels, 0.01)
    loss = loss + concept_distillation(cosines, -cosines, 0.01)
    loss.backward()
    assert loss.isfinite()
    assert cosines.grad.isfinite().all()


def test_regions_that_the_teacher_is_sure_of_are_kept_and_all_if_it_is_of_none():
    cosines = torch.tensor([[0.9, 0.1, 0.1], [0.3, 0.3, 0.3], [0.1, 0.5, 0.1]])
    sure = (cosines / 0.5).softmax(-1).amax(-1)
    assert confident(cosines, 0.5, 0.6).tolist() == [s > 0.6 for s in sure.tolist()]
    assert confident(cosines, 0.5, 0.6).tolist() == [True, False, False]
    assert confident(cosines, 0.5, 0.9).tolist() == [True, True, True]


def everything(regions, teacher, labels, images, captions):
    """All three losses and the kept regions, of one process' rows."""
    kept = confident(teacher @ CONCEPTS.T, 0.2, 0.45)
    cosines = (regions @ CONCEPTS.T)[kept]
    losses = [
        region_contrast(cosines, labels[kept], TAU),
        concept_distillation(cosines, (teacher @ CONCEPTS.T)[kept], TAU),
        info_nce(images, captions, TAU),
    ]
    return losses, kept


def rows(counts, rank=None):
    count = sum(counts)
    whole = [unit(count, 1), unit(count, 2), labels_of(count), unit(count, 3), unit(count, 4)]
    return whole if rank is None else [part.split(counts)[rank] for part in whole]


def step(parts):
    """Losses and gradients of a shared layer, as in a training step."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 6).double()
    regions, teacher, labels, images, captions = parts
    student, seen = (F.normalize(layer(x), dim=-1) for x in (regions, images))
    losses, kept = everything(student, teacher, labels, seen, captions)
    sum(losses).backward()
    gradient = torch.cat([weight.grad.flatten() for weight in layer.parameters()])
    return torch.stack(losses).detach(), gradient, kept


def work(rank):
    said = {}
    for name, counts in SHARES.items():
        losses, gradient, kept = step(rows(counts, rank))
        for part in (losses, gradient):
            distributed.all_reduce(part)  # as DDP does
        said[name] = [(losses / 2).tolist(), (gradient / 2).tolist(), kept.tolist()]
    return said


@pytest.fixture(scope="module")
def said_by_two(tmp_path_factory):
    return on_two_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("share", SHARES)
def test_two_processes_have_the_losses_and_gradients_of_one_with_the_whole_batch(
    said_by_two, share
):
    losses, gradient, kept = step(rows(SHARES[share]))
    assert [*said_by_two[0][share][2], *said_by_two[1][share][2]] == kept.tolist()
    for averaged, mean, _ in (said[share] for said in said_by_two):
        torch.testing.assert_close(torch.tensor(averaged).double(), losses, atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(mean).double(), gradient, atol=1e-6, rtol=0)
