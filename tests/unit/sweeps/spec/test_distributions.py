import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gridclip.sweeps.spec.distributions import (
    CURVES,
    Choice,
    Integers,
    Numbers,
    identity,
    settings_of,
    share,
)

SHARES = [float(u) for u in np.linspace(0.001, 0.999, 37)]
RANGE = {"min": 0.5, "max": 8.0}
# What scipy calls the distribution that a name of W&B means.
TWINS = {
    "uniform": (RANGE, stats.uniform(0.5, 7.5)),
    "log_uniform_values": (RANGE, stats.loguniform(0.5, 8)),
    "inv_log_uniform_values": (RANGE, stats.loguniform(0.5, 8)),
    "log_uniform": ({"min": -3, "max": 2}, stats.loguniform(math.exp(-3), math.exp(2))),
    "inv_log_uniform": ({"min": -3, "max": 2}, stats.loguniform(math.exp(-2), math.exp(3))),
    "normal": ({"mu": 3, "sigma": 0.5}, stats.norm(3, 0.5)),
    "log_normal": ({"mu": 1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.e)),
    "beta": ({"a": 2, "b": 5}, stats.beta(2, 5)),
}


def test_every_curve_has_a_twin():
    assert TWINS.keys() == CURVES.keys()


@pytest.mark.parametrize("name", TWINS)
def test_a_curve_is_the_inverse_cdf_of_its_distribution(name):
    settings, twin = TWINS[name]
    distribution = Numbers(name=name, settings=settings)
    np.testing.assert_allclose([distribution.at(u) for u in SHARES], twin.ppf(SHARES), rtol=1e-9)


def test_every_distribution_has_a_value_at_both_ends():
    for name, (settings, _) in TWINS.items():
        distribution = Numbers(name=name, settings=settings)
        assert all(math.isfinite(distribution.at(u)) for u in (0.0, 1.0))
    assert [Integers(min=2, max=4).at(u) for u in (0.0, 1.0)] == [2, 4]
    assert [Choice(values=("a", "b")).at(u) for u in (0.0, 1.0)] == ["a", "b"]
    assert Choice(values=("a", "b"), probabilities=(0.3, 0.7)).at(1.0) == "b"


def test_a_step_rounds_to_its_multiples_with_half_the_weight_at_both_ends():
    distribution = Numbers(name="uniform", settings={"min": 8, "max": 32}, q=8)
    values = [distribution.at((step + 0.5) / 600) for step in range(600)]
    assert Counter(values) == {8: 100, 16: 200, 24: 200, 32: 100}


@pytest.mark.parametrize(("q", "kind"), [(2, int), (2.0, float), (0.3, float)])
def test_a_whole_step_makes_whole_numbers(q, kind):
    values = [Numbers(name="normal", settings={"mu": 9, "sigma": 3}, q=q).at(u) for u in SHARES]
    assert {type(value) for value in values} == {kind}
    assert all(abs(value / q - round(value / q)) < 1e-9 for value in values)


@given(st.integers(-50, 50), st.integers(1, 60), st.floats(0, 1))
def test_integers_stay_between_both_ends_and_rise_with_u(least, span, u):
    distribution = Integers(min=least, max=least + span)
    assert least <= distribution.at(u) <= least + span
    assert distribution.at(u) <= distribution.at(min(1.0, u + 0.1))


def test_a_border_between_two_integers_belongs_to_the_lower_one_as_in_scipy():
    borders = [step / 8 for step in range(1, 9)]
    expected = stats.randint.ppf(borders, 3, 11).tolist()
    assert list(map(Integers(min=3, max=10).at, borders)) == expected


def test_integers_and_choices_are_equally_likely():
    shares = [(step + 0.5) / 60 for step in range(60)]
    assert set(Counter(map(Integers(min=1, max=6).at, shares)).values()) == {10}
    assert set(Counter(map(Choice(values=("a", "b", "c")).at, shares)).values()) == {20}


def test_probabilities_are_the_shares_of_the_values():
    distribution = Choice(values=("a", "b", "c"), probabilities=(0.2, 0.0, 0.8))
    counts = Counter(distribution.at((step + 0.5) / 100) for step in range(100))
    assert counts == {"a": 20, "c": 80}


def all_of(ladder):
    return [ladder.at(place) for place in range(ladder.length)]


def test_a_grid_is_made_of_lists_whole_numbers_and_steps_only():
    assert all_of(Choice(values=("b", "a")).grid()) == ["b", "a"]
    assert all_of(Integers(min=-1, max=2).grid()) == [-1, 0, 1, 2]
    stepped = Numbers(name="uniform", settings={"min": 0, "max": 1}, q=0.25)
    assert all_of(stepped.grid()) == [0.0, 0.25, 0.5, 0.75]  # W&B leaves max out
    assert Choice(values=(1, 2), probabilities=(0.5, 0.5)).grid() is None
    assert Numbers(name="uniform", settings={"min": 0, "max": 1}).grid() is None
    assert Numbers(name="normal", settings={"mu": 0, "sigma": 1}, q=1).grid() is None


@given(st.integers(-50, 50) | st.floats(-50, 50), st.floats(0.01, 20), st.floats(0.003, 3))
def test_the_steps_of_a_grid_are_numpys_to_the_last_digit(least, span, q):
    most = least + span
    ladder = Numbers(name="uniform", settings={"min": least, "max": most}, q=q).grid()
    assert all_of(ladder) == np.arange(least, most, q).tolist()


def test_a_curve_rises_from_end_to_end():
    for name, (settings, _) in TWINS.items():
        values = [Numbers(name=name, settings=settings).at(u) for u in SHARES]
        assert all(left < right for left, right in pairwise(values)), name


def test_the_keys_of_a_curve_are_its_arguments():
    assert settings_of("uniform") == {"min": None, "max": None}
    assert settings_of("normal") == {"mu": 0.0, "sigma": 1.0}


@pytest.mark.parametrize("name", TWINS)
def test_a_share_leads_back_to_its_value(name):
    distribution = Numbers(name=name, settings=TWINS[name][0])
    for u in (0.0, 0.001, 0.4, 0.999, 1.0):
        assert share(distribution, distribution.at(u)) == pytest.approx(u, abs=1e-9)


@given(st.integers(-9, 9), st.integers(1, 30), st.data())
def test_the_share_of_one_of_many_is_the_middle_of_its_shares(least, span, data):
    distribution = Integers(min=least, max=least + span)
    value = data.draw(st.integers(least, least + span))
    middle = (value - least + 0.5) / (span + 1)
    assert share(distribution, value) == pytest.approx(middle, abs=1e-9)
    assert distribution.at(share(distribution, value)) == value


def test_the_share_of_a_rounded_number_is_the_middle_of_what_is_rounded_to_it():
    distribution = Numbers(name="uniform", settings={"min": 8, "max": 32}, q=8)
    assert [share(distribution, value) for value in (8, 16, 24, 32)] == pytest.approx(
        [1 / 12, 1 / 3, 2 / 3, 11 / 12], abs=1e-9
    )


def test_a_value_beyond_a_distribution_gets_the_share_of_its_end():
    distribution = Integers(min=1, max=4)
    assert (share(distribution, -5), share(distribution, 9)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [(3, 3.0, True), (1, True, False), ("1", 1, False), ([1, {"a": 2}], [1, {"a": 2}], True)],
)
def test_what_is_the_same_to_wandb_is_the_same(left, right, same):
    assert (identity(left) == identity(right)) is same
