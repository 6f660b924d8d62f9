"""Pooling cells into names of an image, against the whole matrix of logits in loops."""

import pytest
import torch

from gridclip.io.errors import InputError
from gridclip.models.gridclip import losses
from gridclip.models.gridclip.losses import PseudoLabelLoss
from gridclip.ops.losses import Cosines, pseudo_label_agreement


def grid():
    torch.manual_seed(0)
    made = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 9, 3), (5, 3), (), ())]
    inside = torch.ones(2, 9, dtype=torch.bool)
    inside[1, 5:] = False
    scores = torch.tensor([[0.6, 0, 0, 0, 0], [0, 0, 0.9, 0.3, 0]], dtype=torch.float64)
    return [part.requires_grad_() for part in made], inside, scores


def naive(settings, parts, inside, scores):
    """Each image and name by itself."""
    logits, rows = Cosines(*parts).logits(), []
    for b in range(2):
        shown = [logits[b, n] for n in range(9) if inside[b, n]]
        for k in range(5):
            cells = torch.stack([cell[k] for cell in shown])
            if settings.pooling == "top":
                rows.append(cells.sort(descending=True).values[: settings.top_k].mean())
            else:
                r = settings.sharpness
                rows.append(((r * cells).exp().mean()).log() / r)
    return pseudo_label_agreement(torch.stack(rows).view(2, 5), scores, absent=settings.absent)


@pytest.mark.parametrize("piece", [1, 20, 2**22])
@pytest.mark.parametrize("pooling", ["top", "log_sum_exp"])
def test_pieces_of_names_give_the_loss_and_gradients_of_the_whole(monkeypatch, pooling, piece):
    monkeypatch.setattr(losses, "PIECE", piece)
    settings = PseudoLabelLoss(pooling=pooling, top_k=3, sharpness=2.0, absent=0.2)
    parts, inside, scores = grid()
    ours = settings.loss(Cosines(*parts), inside, scores)
    truth = naive(settings, parts, inside, scores)
    assert ours.item() == pytest.approx(truth.item(), rel=1e-9)
    for mine, slope in zip(
        torch.autograd.grad(ours, parts), torch.autograd.grad(truth, parts), strict=True
    ):
        assert torch.allclose(mine, slope, atol=1e-12)


def test_cells_in_the_padding_teach_nothing():
    parts, inside, scores = grid()
    PseudoLabelLoss().loss(Cosines(*parts), inside, scores).backward()
    slopes = parts[0].grad.abs().sum(-1)
    assert (slopes[~inside] == 0).all()
    assert (slopes[1, :5] > 0).all()  # the pool takes 8 cells, and 5 is all there are


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"sharpness": 0.0}, {"absent": -0.1}])
def test_numbers_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=f"pseudo_labels\\.{next(iter(wrong))}"):
        PseudoLabelLoss(**wrong)
