"""A training step of GridCLIP does not wait for the device, and may run in bf16."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.encoders.text import ClipText
from gridclip.models.gridclip.model import GridCLIP
from gridclip.ops.assigners import FCOSAssigner
from gridclip.structures import DetectionBatch, Images, Record, Targets, Vocabulary

MINI = ClipModel(name="gridclip-mini", weights="random")

# Each reads a value on the host, for which a graphics card would have to finish first.
WAITS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return GridCLIP(
        ClipResNet(MINI),
        ClipText(MINI),
        FCOSAssigner(),
        teacher=ClipTeacher(MINI),
        width=32,
        num_convs=1,
    ).train()


@pytest.fixture(scope="module")
def batch():
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=chance)
    targets = [
        Targets(torch.tensor([[4.0, 4.0, 40.0, 44.0], [50, 9, 80, 60]]), torch.tensor([1, 0])),
        Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
        Targets(torch.tensor([[8.0, 2.0, 90.0, 64.0]]), torch.tensor([2])),
    ]
    sizes = torch.tensor([[64, 96], [64, 60], [50, 96]])
    return DetectionBatch(
        Images(pixels, sizes),
        targets,
        Vocabulary(["red star", "green ring", "blue moon"]),
        [Record(number, "", 64, 96) for number in range(3)],
        teacher=torch.nn.functional.normalize(torch.randn(3, 128, generator=chance), dim=1),
    )


def total(detector, batch):
    return torch.stack([*detector.losses(batch).values()]).sum()


def test_no_step_waits_for_a_value(detector, batch):
    """With stored embeddings, as a teacher that runs asks for the size of each image.

    The optimizer's counters of steps lie on the host in any case.
    """
    total(detector, batch).backward()  # the text vectors are made the first time
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        total(detector, batch).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
    waits = {event.key: event.count for event in seen.key_averages() if event.key in WAITS}
    assert waits == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
def test_cuda_itself_sees_no_wait_in_a_step(detector, batch):
    from lightning.pytorch.utilities import move_data_to_device

    card, there = detector.cuda(), move_data_to_device(batch, torch.device("cuda"))
    total(card, there).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total(card, there).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        detector.cpu()


def test_the_forward_pass_of_the_network_runs_once_a_step(detector, batch, monkeypatch):
    calls = []
    for part in (detector.backbone, detector.neck, detector.head):
        run = part.forward
        monkeypatch.setattr(part, "forward", lambda *a, run=run: calls.append(run) or run(*a))
    detector.losses(batch)
    assert len(calls) == 3


def test_under_bf16_losses_are_made_in_single_precision_and_stay_close(detector, batch):
    exact = detector.losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = detector.losses(batch)
    for name, loss in rounded.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05)


def test_under_bf16_the_loss_at_a_small_prior_still_teaches(detector, batch):
    """Slopes of negatives are millionths there: in bf16 their sums would stand still."""
    gradients = []
    for enabled in (False, True):
        detector.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            detector.losses(batch)["grid"].backward()
        gradients.append([detector.bias.grad.clone(), detector.head.embed.weight.grad.flatten()])
    exact, rounded = gradients
    assert rounded[0].item() == pytest.approx(exact[0].item(), rel=0.02)
    assert torch.cosine_similarity(exact[1], rounded[1], dim=0) > 0.98


def test_recomputing_activations_changes_no_gradient(detector, batch):
    torch.manual_seed(0)
    thrifty = GridCLIP(
        ClipResNet(MINI),
        detector.text,
        FCOSAssigner(),
        teacher=detector.teacher,
        width=32,
        num_convs=1,
        recompute=True,
    ).train()
    thrifty.load_state_dict(detector.state_dict())
    kept = []
    for each in (detector, thrifty):
        each.zero_grad()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            loss = total(each, batch)
        loss.backward()
        kept.append(sum(sizes))
    assert kept[1] < 0.6 * kept[0]  # what is left is mostly the weights themselves
    mine = dict(thrifty.named_parameters())
    for name, weight in detector.named_parameters():
        if weight.requires_grad:
            assert torch.allclose(mine[name].grad, weight.grad, rtol=1e-3, atol=1e-6), name
