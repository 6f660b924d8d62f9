import pytest
import torch
import torch.nn.functional as F
from torch import distributed
from two_ranks import on_two_ranks

from gridclip.ops.distributed import gather, gather_strings, num_processes, total

SHARES = {"uneven": (5, 2), "one": (3, 3), "first empty": (0, 4), "last empty": (4, 0)}


def pairs(count):
    """Two sides of so many pairs, always the same."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(2, count, 6, generator=generator, dtype=torch.float64)


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 4).double()


def contrastive(left, right):
    logits = F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).mT / 0.1
    return F.cross_entropy(logits, torch.arange(len(logits)))


def whole_batch_loss(network, left, right):
    """Each process computes the loss of the whole batch."""
    return contrastive(gather(network(left))[0], gather(right)[0])


def own_share_loss(network, left, right):
    """Each process computes the loss of its own rows, for the count of all."""
    rows, (others, first) = network(left), gather(network(left))
    columns, _ = gather(right)
    logits = F.normalize(rows, dim=-1) @ F.normalize(columns, dim=-1).mT / 0.1
    labels = torch.arange(first, first + len(rows))
    share = F.cross_entropy(logits, labels, reduction="sum") / total(torch.tensor(float(len(rows))))
    return share * num_processes() + 0 * others.sum()


def gradients(network):
    return torch.cat([weight.grad.flatten() for weight in network.parameters()])


def work(rank):
    said = {}
    for name, counts in SHARES.items():
        left, right = (side.split(counts)[rank] for side in pairs(sum(counts)))
        for form in (whole_batch_loss, own_share_loss):
            network = model()
            loss = form(network, left, right[:, :4])
            loss.backward()
            mean = gradients(network)
            distributed.all_reduce(mean)  # as DDP does
            said[f"{name} {form.__name__}"] = [loss.item(), (mean / 2).tolist()]
        said[f"{name} labels"] = gather(torch.arange(counts[rank]) + 10 * rank)[0].tolist()
        said[f"{name} first"] = gather(left)[1]
    said["strings"] = gather_strings(["a", "b"][rank:])
    return said


@pytest.fixture(scope="module")
def said_by_two(tmp_path_factory):
    return on_two_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("form", ["whole_batch_loss", "own_share_loss"])
def test_two_processes_train_as_one_on_the_whole_batch(said_by_two, share, form):
    network = model()
    left, right = pairs(sum(SHARES[share]))
    loss = contrastive(network(left), right[:, :4])
    loss.backward()
    losses, averaged = zip(*(said[f"{share} {form}"] for said in said_by_two), strict=True)
    assert sum(losses) / 2 == pytest.approx(loss.item(), abs=1e-6)
    for gradient in averaged:
        torch.testing.assert_close(
            torch.tensor(gradient).double(), gradients(network), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("share", SHARES)
def test_rows_stand_in_the_order_of_ranks(said_by_two, share):
    first, second = SHARES[share]
    for rank, said in enumerate(said_by_two):
        assert said[f"{share} labels"] == [*range(first), *range(10, 10 + second)]
        assert said[f"{share} first"] == (0, first)[rank]
        assert said["strings"] == [["a", "b"], ["b"]]


def test_alone_everything_stays_as_it_is():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather(rows) == (rows, 0)
    assert gather_strings(["a"]) == [["a"]]
    assert (total(torch.tensor(2.5)), num_processes()) == (2.5, 1)
