from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gridclip.data.sampling import MixedSampler, Position, RankShard, SamplingPool, batches_before

SHAPES = {"wide": (30, 40), "tall": (40, 30), "square": (30, 30)}


def pool(count, batch_size=2, repeats=None, seed=0):
    drawn = np.random.default_rng(seed).choice(list(SHAPES), count)
    sizes = np.array([SHAPES[shape] for shape in drawn]).reshape(-1, 2)
    return SamplingPool(
        sizes, batch_size, None if repeats is None else np.asarray(repeats, dtype=float)
    )


def mixed(*pools, ratio=1.0):
    """Pools by kind; the ratio is that of all but the first."""
    rest = (each._replace(ratio=ratio) for each in pools[1:])
    return dict(zip(("detection", "image_level", "pairs"), (*pools[:1], *rest), strict=False))


def epoch(number, *pools, processes=1, first=0, ratio=1.0, **settings):
    """The batches of one epoch, of every process."""
    return [
        list(
            MixedSampler(
                mixed(*pools, ratio=ratio),
                share=RankShard(processes, rank),
                position=lambda: Position(number, first),
                **settings,
            )
        )
        for rank in range(processes)
    ]


def rows(batches, source="detection"):
    return [draw.row for batch in batches for draw in batch if draw.source == source]


@hypothesis_settings(deadline=None)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 5),
    processes=st.integers(1, 4),
    number=st.integers(0, 3),
)
def test_every_image_has_its_turn_and_every_process_as_many_batches(
    count, batch_size, processes, number
):
    shares = epoch(number, pool(count, batch_size), processes=processes)
    sampler = MixedSampler(mixed(pool(count, batch_size)), share=RankShard(processes, 0))
    assert {len(batches) for batches in shares} == {len(sampler)}
    assert {tuple(map(len, batches)) for batches in shares} == {tuple(map(len, shares[0]))}
    drawn = Counter(row for batches in shares for row in rows(batches))
    assert set(drawn) == set(range(count))
    assert sum(drawn.values()) - count == -count % processes  # the first ones fill up
    sizes = [len(batch) for batch in shares[0]]
    assert all(size == batch_size for size in sizes[:-1])
    assert {draw.epoch for batch in shares[0] for draw in batch} == {number}


def test_batches_are_of_one_orientation_but_for_what_is_left():
    images = pool(1000, batch_size=4)
    tall = images.sizes[:, 0] > images.sizes[:, 1]
    shares = epoch(0, images, processes=2)
    mixed = 0
    for parts in zip(*shares, strict=True):  # of all processes, so that none waits for another
        kinds = {bool(tall[draw.row]) for part in parts for draw in part}
        mixed += len(kinds) == 2
    assert mixed <= 2
    first = [bool(tall[batch[0].row]) for batch in shares[0]]
    assert sorted(first) not in (first, first[::-1])  # not all of one orientation first


def test_the_order_is_new_in_each_epoch_and_with_each_seed_and_the_same_again():
    images = pool(40)
    orders = [tuple(rows(epoch(number, images, seed=7)[0])) for number in range(5)]
    assert len(set(orders)) == 5
    assert tuple(rows(epoch(3, images, seed=7)[0])) == orders[3]
    assert tuple(rows(epoch(3, images, seed=8)[0])) != orders[3]


@pytest.mark.parametrize("processes", [1, 2])
def test_from_any_step_on_the_rest_of_the_epoch_is_the_same(processes):
    pools = pool(30, repeats=np.linspace(1, 2.5, 30)), pool(11, 3, seed=1)
    settings = {"ratio": 0.7, "processes": processes}
    for number in (0, 4):
        whole = epoch(number, *pools, **settings)
        for first in range(len(whole[0]) + 1):
            rest = epoch(number, *pools, first=first, **settings)
            assert rest == [batches[first:] for batches in whole]


@hypothesis_settings(deadline=None)
@given(st.floats(0.01, 4), st.integers(1, 50))
def test_kinds_are_spread_as_evenly_as_can_be(ratio, count):
    sampler = MixedSampler(mixed(pool(count, 1), pool(5, 1), ratio=ratio))
    kinds = [batch[0].source for batch in sampler]
    assert all(len({draw.source for draw in batch}) == 1 for batch in sampler)
    assert kinds.count("detection") == count
    assert kinds.count("image_level") == max(1, round(ratio * count))
    share = Fraction(kinds.count("image_level"), len(kinds))
    for step in range(len(kinds) + 1):
        before = kinds[:step].count("image_level")
        assert abs(before - share * step) < 1
        assert [step - before, before] == batches_before(step, [count, len(kinds) - count])


@hypothesis_settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_any_number_of_kinds_is_spread_evenly_and_comes_as_often_as_asked(counts):
    """Against walking through the steps: each is of one kind, none lags by two of its batches."""
    steps = [batches_before(step, counts) for step in range(sum(counts) + 1)]
    assert steps[0] == [0] * len(counts)
    assert steps[-1] == counts
    for before, after in pairwise(steps):
        assert sorted(np.subtract(after, before)) == [0] * (len(counts) - 1) + [1]
    for step, before in enumerate(steps):
        fair = np.array(counts) * step / sum(counts)
        assert abs(np.subtract(before, fair)).max() < len(counts)


def test_ratios_are_of_the_batches_and_relative_to_each_other():
    pools = {
        "detection": pool(20, 2)._replace(ratio=2.0),
        "grounding": pool(7, 4)._replace(ratio=1.0),
        "pairs": pool(90, 3)._replace(ratio=3.0),
    }
    kinds = Counter(batch[0].source for batch in MixedSampler(pools))
    assert kinds == {"detection": 10, "grounding": 5, "pairs": 15}
    sizes = {(batch[0].source, len(batch)) for batch in MixedSampler(pools)}
    assert sizes == {("detection", 2), ("grounding", 4), ("grounding", 3), ("pairs", 3)}


def test_a_kind_sees_its_images_in_the_same_order_whatever_is_mixed_in():
    alone = epoch(0, pool(9))[0]
    mixed_in = [batch for batch in epoch(0, pool(9), pool(5))[0] if batch[0].source == "detection"]
    assert mixed_in == alone


def test_at_each_step_every_process_has_the_same_kind():
    shares = epoch(1, pool(33), pool(7, 3), ratio=1.5, processes=3)
    kinds = [[batch[0].source for batch in batches] for batches in shares]
    assert kinds[0] == kinds[1] == kinds[2]
    assert set(kinds[0]) == {"detection", "image_level"}


def test_image_level_images_go_on_through_epochs_each_once_a_pass():
    """Five batches an epoch, of eight to a pass, so passes and epochs interleave."""
    pools, settings = (pool(10, 2), pool(16, 1)), {"ratio": 1.0, "processes": 2}
    draws = [
        draw
        for number in range(6)
        for parts in zip(*epoch(number, *pools, **settings), strict=True)
        for part in parts
        for draw in part
        if draw.source == "image_level"
    ]
    assert len(draws) % 16 != 0
    for start in range(0, len(draws) - 15, 16):
        turn = draws[start : start + 16]
        assert sorted(draw.row for draw in turn) == list(range(16))
        assert {draw.epoch for draw in turn} == {start // 16}
    assert [draw.row for draw in draws[:16]] != [draw.row for draw in draws[16:32]]


def test_repeats_give_each_image_its_turns():
    """Whole parts always, the fraction as a probability; against counting over many epochs."""
    repeats = [1.0, 1.25, 3.0, 2.9, 1.5, 1.1, 1.0]
    images = pool(7, 4, repeats)
    counts = np.zeros(7)
    lengths = set()
    for number in range(2000):
        batches = epoch(number, images)[0]
        lengths.add((len(batches), sum(map(len, batches))))
        drawn = Counter(rows(batches))
        excess = [drawn[row] - int(factor) for row, factor in enumerate(repeats)]
        assert min(excess) >= 0
        assert sum(each > 1 for each in excess) <= 1  # the one that fills up
        counts += [drawn[row] for row in range(7)]
        turns = {(draw.row, draw.turn) for batch in batches for draw in batch}
        assert turns == {(row, turn) for row in range(7) for turn in range(drawn[row])}
    assert lengths == {(3, 12)}  # 11.75 turns an epoch; a trainer counts on equal lengths
    fill = (12 - 11.75) / 7  # anyone's
    assert counts / 2000 == pytest.approx(np.add(repeats, fill), abs=0.04)  # of 0.011 a deviation


def test_repeated_images_are_not_all_in_one_batch():
    images = pool(20, 4, [1.0] * 19 + [8.0])
    together = max(
        rows([batch]).count(19) for number in range(5) for batch in epoch(number, images)[0]
    )
    assert together < 4
