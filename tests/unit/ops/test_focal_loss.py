"""The fused focal loss against the formula in loops, and against torchvision's dense one."""

import pytest
import torch
from torch.autograd import gradcheck
from torchvision.ops import sigmoid_focal_loss

from gridclip.ops import focal_loss
from gridclip.ops.focal_loss import STRICT, Blocks, Cosines, Focus, Leniency, NegativeMask
from gridclip.ops.losses import grid_alignment

IMAGES, CELLS, NAMES, WIDTH = 2, 5, 4, 3
OWNER = {(0, 1): 3, (1, 0): 0, (1, 4): 2}


def grid(seed=0):
    """Cosines, and the name of each cell's object, as of OWNER."""
    chance = torch.Generator().manual_seed(seed)
    made = [(IMAGES, CELLS, WIDTH), (NAMES, WIDTH), (), ()]
    parts = [torch.randn(shape, dtype=torch.float64, generator=chance) for shape in made]
    owners = torch.full((IMAGES, CELLS), -1)
    for cell, name in OWNER.items():
        owners[cell] = name
    return [part.requires_grad_() for part in parts], owners


def counts(share, seed=1):
    """Any half of the names, and others in the cells of objects."""
    chance = torch.Generator().manual_seed(seed)
    return NegativeMask(*(torch.rand(2, IMAGES, NAMES, generator=chance) < share))


UNKNOWN = ((0, 0), (0, 1), (1, 3))
"""Cells that are nobody's negatives; the second belongs to an object, which wins."""


def lenient(seed=2):
    unknown = torch.zeros(IMAGES, CELLS, dtype=torch.bool)
    for cell in UNKNOWN:
        unknown[cell] = True
    generator = torch.Generator().manual_seed(seed)
    return Leniency(unknown, torch.rand(NAMES, NAMES, dtype=torch.float64, generator=generator))


def naive(parts, counted, leniency=STRICT):
    """Focal loss in loops, term by term, differentiable."""
    logits, total = Cosines(*parts).logits(), 0.0
    for b in range(IMAGES):
        for n in range(CELLS):
            for k in range(NAMES):
                p, owner = logits[b, n, k].sigmoid(), OWNER.get((b, n))
                if owner == k:
                    total = total - 0.25 * (1 - p) ** 2 * p.log()
                elif counted is None or counted[owner is not None][b, k]:
                    weight = 0.75
                    if owner is None and leniency.unknown is not None and leniency.unknown[b, n]:
                        weight = 0.0
                    if owner is not None and leniency.related is not None:
                        weight = 0.75 * leniency.related[owner, k]
                    total = total - weight * p**2 * (1 - p).log()
    return total / len(OWNER)


def dense(cosines, owners, counted=None):
    """torchvision's formula over the whole matrix, entries that do not count left out."""
    logits, owned = cosines.logits(), owners >= 0
    hits = torch.zeros_like(logits)
    hits[owned] = torch.nn.functional.one_hot(owners[owned], logits.shape[-1]).to(logits)
    each = sigmoid_focal_loss(logits, hits)
    if counted is not None:
        kept = torch.where(
            owned[..., None], counted.foreground[:, None], counted.background[:, None]
        )
        each = each * (kept | hits.bool())
    return each.sum() / max(int(owned.sum()), 1)


def full(cells=300, names=50, width=16, share=0.1, dtype=torch.float32):
    """Two images of unit vectors, as detectors give them."""
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    embeddings = unit(torch.randn(2, cells, width, dtype=dtype), dim=-1).requires_grad_()
    text = unit(torch.randn(names, width, dtype=dtype), dim=-1).requires_grad_()
    scale = torch.tensor(14.0, dtype=dtype, requires_grad=True)
    bias = torch.tensor(-4.6, dtype=dtype, requires_grad=True)
    owners = torch.randint(names, (2, cells)).masked_fill(torch.rand(2, cells) >= share, -1)
    return Cosines(embeddings, text, scale, bias), owners


def relative_gaps(one, other):
    return [
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()
        for a, b in zip(one, other, strict=True)
    ]


def with_slopes(loss, cosines):
    return [loss, *torch.autograd.grad(loss, cosines)]


@pytest.mark.parametrize("share", [None, 0.5, 0.0])
def test_the_loss_is_the_focal_loss_of_the_cells_and_names_that_count(share):
    parts, owners = grid()
    counted = None if share is None else counts(share)
    ours = with_slopes(grid_alignment(Cosines(*parts), owners, negative_mask=counted), parts)
    assert max(relative_gaps(ours, with_slopes(naive(parts, counted), parts))) < 1e-10


@pytest.mark.parametrize("share", [None, 0.5, 0.0])
@pytest.mark.parametrize("fields", [("unknown",), ("related",), ("unknown", "related")])
@pytest.mark.parametrize("blocks", [(7, 1, 3), (2**22, 1, 2**22)])
def test_unknown_cells_teach_nothing_and_related_names_less(monkeypatch, share, fields, blocks):
    monkeypatch.setitem(focal_loss.BLOCKS, "cpu", Blocks(*blocks))
    parts, owners = grid()
    counted = None if share is None else counts(share)
    leniency = Leniency(**{field: getattr(lenient(), field) for field in fields})
    ours = grid_alignment(Cosines(*parts), owners, negative_mask=counted, leniency=leniency)
    truth = naive(parts, counted, leniency)
    assert max(relative_gaps(with_slopes(ours, parts), with_slopes(truth, parts))) < 1e-10


@pytest.mark.parametrize("share", [None, 0.5])
def test_the_gradient_of_the_loss_is_its_slope(share):
    parts, owners = grid()
    counted = None if share is None else counts(share)
    focus = Focus(alpha=0.4, gamma=1.5)
    assert gradcheck(
        lambda *given: grid_alignment(Cosines(*given), owners, negative_mask=counted, focus=focus),
        parts,
    )


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("share", [None, 0.4])
@pytest.mark.parametrize(("names", "owned"), [(50, 0.1), (50, 0.0), (50, 1.0), (1, 0.3)])
def test_the_loss_is_torchvisions(dtype, limit, share, names, owned):
    cosines, owners = full(names=names, share=owned, dtype=dtype)
    counted = None if share is None else NegativeMask(*(torch.rand(2, 2, names) < share))
    ours = with_slopes(grid_alignment(cosines, owners, negative_mask=counted), cosines)
    truth = with_slopes(dense(cosines, owners, counted), cosines)
    assert ours[0].dtype == dtype
    assert max(relative_gaps(ours, truth)) < limit


@pytest.mark.parametrize("blocks", [(1, 1, 1), (7, 1, 3), (12, 1, 4), (20, 3, 20), (3, 4, 2**20)])
@pytest.mark.parametrize("share", [None, 0.5])
def test_blocks_of_any_size_add_up_to_the_same_loss_and_gradients(monkeypatch, blocks, share):
    parts, owners = grid()
    counted = None if share is None else counts(share)
    results = []
    for limits in (blocks, (2**22, 1, 2**22)):
        monkeypatch.setitem(focal_loss.BLOCKS, "cpu", Blocks(*limits))
        loss = grid_alignment(Cosines(*parts), owners, negative_mask=counted)
        results.append(with_slopes(loss, parts))
    assert max(relative_gaps(*results)) < 1e-12


def test_only_the_slopes_that_are_asked_for_are_made():
    (embeddings, text, scale, bias), owners = grid()
    for asked in ([embeddings], [bias], [text], [scale], [embeddings, scale]):
        parts = [
            part if any(part is each for each in asked) else part.detach()
            for part in (embeddings, text, scale, bias)
        ]
        ours = torch.autograd.grad(grid_alignment(Cosines(*parts), owners), asked)
        assert max(relative_gaps(ours, torch.autograd.grad(naive(parts, None), asked))) < 1e-10


def test_the_backward_pass_keeps_nothing_of_cells_by_names():
    (embeddings, text, scale, bias), owners = grid()
    text = text.detach().repeat(100, 1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, id):
        grid_alignment(Cosines(embeddings, text, scale, bias), owners)
    assert 0 < sum(kept) < IMAGES * CELLS * len(text) / 2


def test_a_graph_that_is_kept_gives_the_same_slopes_each_time_and_then_a_last_time():
    parts, owners = grid()
    loss = 3 * grid_alignment(Cosines(*parts), owners)
    first = [each.clone() for each in torch.autograd.grad(loss, parts, retain_graph=True)]
    again = torch.autograd.grad(loss, parts, retain_graph=True)
    last = torch.autograd.grad(loss, parts)
    assert max(relative_gaps(first, again)) == max(relative_gaps(first, last)) == 0


def test_the_forward_pass_never_holds_all_cells_by_names(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                Largest.entries = max(Largest.entries, made.numel())
            return made

    monkeypatch.setitem(focal_loss.BLOCKS, "cpu", Blocks(1000, 1, 100))
    cosines, owners = full(names=500)
    with Largest():
        grid_alignment(cosines, owners).backward()
    assert Largest.entries <= cosines.embeddings.numel() < 600 * 500


def test_images_without_objects_still_push_scores_down():
    (embeddings, text, scale, bias), owners = grid()
    grid_alignment(Cosines(embeddings, text, scale, bias), owners * 0 - 1).backward()
    assert bias.grad > 0


def test_the_loss_of_nothing_that_counts_is_zero_and_so_are_its_gradients():
    parts, owners = grid()
    loss = grid_alignment(Cosines(*parts), owners * 0 - 1, negative_mask=counts(0.0))
    assert loss == 0
    assert all((slope == 0).all() for slope in torch.autograd.grad(loss, parts))


@pytest.mark.parametrize("logit", [-200.0, -30.0, 30.0, 100.0, 1000.0])
def test_extreme_logits_have_the_exact_value_and_no_infinite_slope(logit):
    one = torch.ones(1, 1, 1)
    for owner, truth in ((-1, 0.75 * max(logit, 0)), (0, 0.25 * max(-logit, 0))):
        bias = torch.tensor(logit - 1, requires_grad=True)
        cosines = Cosines(one, one[0], torch.tensor(1.0), bias)
        loss = grid_alignment(cosines, torch.full((1, 1), owner))
        loss.backward()
        assert loss.item() == pytest.approx(truth, rel=1e-5, abs=1e-9)
        assert bias.grad.item() == pytest.approx(
            {-1: 0.75 * (logit > 0), 0: -0.25 * (logit < 0)}[owner], abs=1e-9
        )


def test_the_tiny_slopes_of_a_small_prior_keep_single_precision():
    """At logits of -12 the value of a negative is 1e-16; log(1 + exp(x)) rounds its factor."""
    cosines, owners = full(share=0.0)
    cosines = cosines._replace(bias=torch.tensor(-30.0, requires_grad=True))
    ours = with_slopes(grid_alignment(cosines, owners), cosines)
    double = Cosines(*(part.detach().double().requires_grad_() for part in cosines))
    assert max(relative_gaps(ours, with_slopes(dense(double, owners), double))) < 1e-4


def test_under_bf16_autocast_only_the_products_are_rounded():
    cosines, owners = full(cells=600, names=80, width=64)
    exact = with_slopes(dense(cosines, owners), cosines)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = with_slopes(grid_alignment(cosines, owners), cosines)
        plain = with_slopes(dense(cosines, owners), cosines)
    assert [part.dtype for part in ours] == [torch.float32] * 5
    for mine, theirs in zip(relative_gaps(ours, exact), relative_gaps(plain, exact), strict=True):
        assert mine < max(2 * theirs, 2e-3)


def test_embeddings_in_bf16_give_a_loss_in_single_precision_and_slopes_in_theirs():
    cosines, owners = full(cells=600, names=80, width=64)
    exact = with_slopes(dense(cosines, owners), cosines)
    low = cosines.embeddings.detach().bfloat16().requires_grad_()
    ours = with_slopes(grid_alignment(cosines._replace(embeddings=low), owners), [low])
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == torch.bfloat16
    assert max(relative_gaps(ours, exact[:2])) < 2e-2
