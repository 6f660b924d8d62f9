"""Which names count as negatives, against each paper's rule in loops."""

import pytest
import torch

from gridclip.io.errors import InputError
from gridclip.models.gridclip.losses import Negatives
from gridclip.structures import DetectionBatch, Images, Record, Targets, Vocabulary

NAMES = 40
FREQUENCY = torch.linspace(0, 0.39, NAMES)  # the name k is in k percent of the images


def batch(labels=((3, 3, 7), (), (39,)), ids=(11, 12, 13), shift=0.0, **fields):
    targets = [
        Targets(torch.arange(len(own) * 4.0).reshape(-1, 4) + shift, torch.tensor(own).long())
        for own in labels
    ]
    images = Images(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.full((3, 2), 32))
    vocabulary = Vocabulary(f"name {k}" for k in range(NAMES))
    records = [Record(i, "", 32, 32) for i in ids]
    return DetectionBatch(images, targets, vocabulary, records, **fields)


def test_all_names_count_by_default():
    assert Negatives().mask(batch()) is None


def test_only_verified_names_count_in_any_cell():
    verified = torch.rand(3, NAMES) < 0.3
    counted = Negatives(kind="verified").mask(batch(verified=verified))
    assert torch.equal(counted.background, verified)
    assert torch.equal(counted.foreground, verified)


def test_equalisation_spares_rare_names_in_cells_of_other_objects_only():
    rare = 0.105
    counted = Negatives(kind="equalised", rare_share=rare).mask(batch(category_frequency=FREQUENCY))
    for name in range(NAMES):
        # w = 1 - E(r) · T(f) · (1 - y), for a name that is not the cell's own: y = 0
        for foreground, mask in ((0, counted.background), (1, counted.foreground)):
            weight = 1 - foreground * (1 if FREQUENCY[name] < rare else 0)
            assert mask[:, name].tolist() == [bool(weight)] * 3


def test_the_federated_loss_takes_every_boxed_name_and_draws_up_to_its_number():
    counted = Negatives(kind="federated", num_names=12).mask(batch(category_frequency=FREQUENCY))
    assert torch.equal(counted.background, counted.foreground)
    drawn = counted.background
    assert (drawn == drawn[0]).all()  # one draw for the batch
    assert drawn[0].sum() == 12
    assert drawn[0, [3, 7, 39]].all()
    some = Negatives(kind="federated", num_names=2).draw(batch(category_frequency=FREQUENCY))
    assert some.nonzero().flatten().tolist() == [3, 7, 39]
    everything = Negatives(kind="federated", num_names=500).draw(
        batch(category_frequency=FREQUENCY)
    )
    assert everything.sum() == NAMES - 1  # a name that no image shows is never drawn


def test_frequent_names_are_drawn_more_often_by_the_power_of_their_share():
    """Without replacement the first of two draws has the plain weights: compare with a loop."""
    settings = Negatives(kind="federated", num_names=2, power=0.5)
    times = torch.zeros(NAMES)
    for number in range(3000):
        times += settings.draw(batch(((3,), (), ()), (number, 0, 0), category_frequency=FREQUENCY))
    weights = FREQUENCY.sqrt()
    weights[3] = 0
    expected = 3000 * weights / weights.sum()
    others = [k for k in range(NAMES) if k != 3]
    error = (times - expected)[others] / expected[others].clamp(min=1).sqrt()
    assert times[3] == 3000
    assert error.abs().max() < 4.5
    assert times[0] == 0


def test_a_draw_depends_on_the_batch_and_on_nothing_else():
    settings = Negatives(kind="federated", num_names=12)
    one = settings.draw(batch(category_frequency=FREQUENCY))
    torch.manual_seed(5)  # a resumed training has another state here
    assert torch.equal(one, settings.draw(batch(category_frequency=FREQUENCY)))
    assert not torch.equal(
        one, settings.draw(batch(ids=(11, 12, 14), category_frequency=FREQUENCY))
    )
    assert not torch.equal(
        one, settings.draw(batch(shift=1.5, category_frequency=FREQUENCY))
    )  # another epoch


@pytest.mark.parametrize("kind", ["verified", "equalised", "federated"])
def test_what_the_data_does_not_tell_is_asked_for(kind):
    with pytest.raises(InputError, match=r"negatives\.kind: the data does not say"):
        Negatives(kind=kind).mask(batch())


@pytest.mark.parametrize(
    "wrong", [{"rare_share": -1.0}, {"num_names": -1}, {"power": float("nan")}]
)
def test_numbers_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=f"negatives\\.{next(iter(wrong))}"):
        Negatives(**wrong)
