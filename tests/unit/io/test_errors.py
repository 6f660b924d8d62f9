import math

import pytest

from gridclip.io.errors import (
    InputError,
    require_at_least,
    require_fraction,
    require_positive,
    require_range,
)


def refused(call):
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_an_error_names_file_field_problem_and_fix():
    error = InputError("is odd", file="a.json", field="images", fix="mend it")
    assert str(error) == "a.json: images: is odd\n  fix: mend it"


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "fix"),
    [
        ({"least": 0, "most": 1}, (0, 0.5, 1), (-0.1, 1.1), "give a number in [0, 1]"),
        ({"least": 0, "below": 1}, (0, 0.99), (-1, 1), "give a number in [0, 1)"),
        ({"above": 0, "most": 1}, (1e-9, 1), (0, 2), "give a number in (0, 1]"),
        ({"above": 0, "below": 1}, (0.5,), (0, 1), "give a number in (0, 1)"),
        ({"least": 1}, (1, 10**400), (0, 0.99), "give 1 or more"),
        ({"above": 0}, (1e-300,), (0, -1), "give a number above 0"),
    ],
)
def test_a_bound_is_in_the_range_or_not_as_its_bracket_says(limits, inside, outside, fix):
    for value in inside:
        require_range(value, "share", **limits)
    for value in outside:
        told = refused(lambda value=value: require_range(value, "share", **limits))
        assert told == f"share: {value} is out of range\n  fix: {fix}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_outside_every_range(value):
    for limits in ({}, {"least": 0}, {"above": 0}, {"most": 1}, {"below": 1}):
        assert f"x: {value} is out of range" in refused(
            lambda limits=limits: require_range(value, "x", **limits)
        )


def test_of_several_settings_the_one_outside_is_named():
    require_at_least(1, batch_size=1, count=2)
    assert refused(lambda: require_at_least(1, batch_size=1, count=0)).startswith("count: 0")
    require_fraction(flip=0, crop=1)
    assert refused(lambda: require_fraction(flip=0, crop=1.01)).startswith("crop: 1.01")
    require_positive(sigma=0.1, scale=3)
    assert refused(lambda: require_positive(sigma=0.1, scale=0)).startswith("scale: 0")


def test_a_setting_may_be_called_as_an_argument_is_and_have_a_dotted_name():
    require_at_least(1, least=1)
    told = refused(lambda: require_at_least(0, **{"weights.box": -1.0}))
    assert told.startswith("weights.box: -1.0 is out of range")
