"""The distributions of a swept parameter: W&B's own, each by its inverse cumulative function.

Every distribution turns a number u in [0, 1] into a value, so a random search draws u evenly and a
cleverer one may search the unit cube. What each name means is that of W&B's engine (the package
`sweeps` 0.3.0, `params.py`), and tests/parity compares with it.
"""

import inspect
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple

import yaml

from gridclip.sweeps.spec.yaml_section import Number

SHARES = 2**40  # into how many parts [0, 1] is cut where a share is looked for


class Ladder(NamedTuple):
    """The values that a grid tries of a parameter, in order; each is made when it is asked for.

    Args:
        length: How many there are; a range may have more than any list.
        at: From a place, 0 for the first, to its value.
    """

    length: int
    at: Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a list: W&B's `constant`, `categorical` and `categorical_w_probabilities`.

    Args:
        values: What to choose from, at least one entry.
        probabilities: One for each value, adding up to 1; None makes all equally likely.
    """

    values: tuple[object, ...]
    probabilities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.probabilities is None:
            return
        if len(self.probabilities) != len(self.values):
            raise ValueError(f"{len(self.values)} values, {len(self.probabilities)} probabilities")
        if min(self.probabilities) < 0 or not math.isclose(
            sum(self.probabilities), 1, rel_tol=1e-5, abs_tol=1e-8
        ):
            raise ValueError(f"the probabilities {self.probabilities} are no shares of 1")

    def at(self, u: float) -> object:
        """Returns the value at the share u of the list."""
        if self.probabilities is None:
            return self.values[_rank(u, len(self.values))]
        below = list(accumulate(self.probabilities))
        return self.values[min(bisect_right(below, u), len(below) - 1)]

    def grid(self) -> Ladder | None:
        """Returns the list, equal values once: the last, in the place of the first.

        None with probabilities, which a grid would ignore.
        """
        if self.probabilities is not None:
            return None
        distinct = tuple({identity(value): value for value in self.values}.values())
        return Ladder(len(distinct), distinct.__getitem__)


@dataclass(frozen=True, kw_only=True)
class Integers:
    """Every whole number from min to max, both included, equally likely: W&B's `int_uniform`."""

    min: int
    max: int

    def __post_init__(self) -> None:
        _check_range(self.min, self.max)

    def at(self, u: float) -> int:
        """Returns the whole number at the share u of the range."""
        return self.min + _rank(u, self.max - self.min + 1)

    def grid(self) -> Ladder:
        """Returns all of them, rising."""
        return Ladder(self.max - self.min + 1, self.min.__add__)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A distribution on real numbers, rounded to multiples of q where q is given (W&B's `q_…`).

    Args:
        name: One of `CURVES`.
        settings: What the curve takes: min and max, mu and sigma, or a and b.
        q: The step; a whole q makes the values whole numbers.
    """

    name: str
    settings: Mapping[str, Number]
    q: Number | None = None

    def __post_init__(self) -> None:
        if {"min", "max"} <= self.settings.keys():
            _check_range(self.settings["min"], self.settings["max"])
        if self.name.endswith("_values") and self.settings["min"] <= 0:
            raise ValueError(f"min must be above 0 on a logarithmic scale, not {self.settings}")
        for width in ("sigma", "a", "b"):
            if self.settings.get(width, 1) <= 0:
                raise ValueError(f"{width} must be above 0, not {self.settings[width]}")
        if self.q is not None and self.q <= 0:
            raise ValueError(f"q must be above 0, not {self.q}")
        try:
            ends = [CURVES[self.name](u, **self.settings) for u in (0.0, 1.0)]
        except OverflowError:
            ends = [math.inf]
        if not all(map(math.isfinite, ends)):
            raise ValueError(f"its values would go beyond all numbers: {self.settings}")

    def at(self, u: float) -> Number:
        """Returns the number below which the distribution has the share u of its mass."""
        value = CURVES[self.name](u, **self.settings)
        if self.q is None:
            return value
        # round() halves to even, as numpy does, and gives an int, so a whole q keeps it whole.
        return round(value / self.q) * self.q

    def grid(self) -> Ladder | None:
        """Returns min and every q above it below max; only `q_uniform` has a grid."""
        if self.name != "uniform" or self.q is None:
            return None
        least, most = self.settings["min"], self.settings["max"]
        # The step between two neighbours as numpy.arange has it, W&B's own call, which may differ
        # from q in its last digit; 0 where q is too small to be seen beside min.
        step = (least + self.q) - least
        count = math.ceil((most - least) / self.q) if step else 1
        return Ladder(count, lambda place: least + place * step)


# What a parameter draws from. Each has `at`, which turns u in [0, 1] into a value, and `grid`, all
# values in the order of a grid, or None where W&B makes no grid of the distribution.
Distribution = Choice | Integers | Numbers


def uniform(u: float, *, min: Number, max: Number) -> float:
    """Evenly between min and max."""
    return min + u * (max - min)


def log_uniform(u: float, *, min: Number, max: Number) -> float:
    """Evenly in the exponent of e, which min and max are."""
    return math.exp(uniform(u, min=min, max=max))


def log_uniform_values(u: float, *, min: Number, max: Number) -> float:
    """Evenly in the logarithm, between the values min and max."""
    return log_uniform(u, min=math.log(min), max=math.log(max))


def inv_log_uniform(u: float, *, min: Number, max: Number) -> float:
    """1/x is evenly spread in the exponent of e, which min and max are."""
    return log_uniform(u, min=-max, max=-min)


def inv_log_uniform_values(u: float, *, min: Number, max: Number) -> float:
    """1/x is evenly spread in the logarithm: the same distribution as `log_uniform_values`."""
    return log_uniform_values(u, min=min, max=max)


def normal(u: float, *, mu: Number = 0.0, sigma: Number = 1.0) -> float:
    """Returns the bell of mean mu and standard deviation sigma."""
    # At 0 and 1 the bell has no value; random.random() does give 0.
    return NormalDist(mu, sigma).inv_cdf(min(max(u, 1e-12), 1 - 1e-12))


def log_normal(u: float, *, mu: Number = 0.0, sigma: Number = 1.0) -> float:
    """Returns the logarithm follows a bell of mean mu and standard deviation sigma."""
    return math.exp(normal(u, mu=mu, sigma=sigma))


def beta(u: float, *, a: Number = 1.0, b: Number = 1.0) -> float:
    """Returns the beta distribution on [0, 1]."""
    from scipy.special import betaincinv

    return float(betaincinv(a, b, u))


# The arguments of a curve are the keys its parameter takes in the file, defaults included.
CURVES: Mapping[str, Callable[..., float]] = {
    curve.__name__: curve
    for curve in (
        uniform,
        log_uniform,
        log_uniform_values,
        inv_log_uniform,
        inv_log_uniform_values,
        normal,
        log_normal,
        beta,
    )
}
QUANTISED = frozenset(f"q_{name}" for name in CURVES if not name.startswith("inv_"))


def share(distribution: Integers | Numbers, value: Number) -> float:
    """Returns the share u at which a distribution gives a value, the middle of them if many do.

    No distribution needs a cumulative function of its own for it, for all of them rise with u.
    Where a distribution never gives the value, it is the share of the nearest one below or above.
    """
    steps = range(SHARES + 1)
    first = bisect_left(steps, value, key=lambda step: distribution.at(step / SHARES))
    last = bisect_right(steps, value, key=lambda step: distribution.at(step / SHARES))
    return min((first + last) / 2 / SHARES, 1.0)


def identity(value: object) -> str:
    """Returns what makes two values the same to W&B: 3 and 3.0 are, 1 and true are not."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return yaml.safe_dump(whole, default_flow_style=True, sort_keys=True)


def settings_of(curve: str) -> dict[str, Number | None]:
    """Returns the keys a curve takes and their defaults; None must be given."""
    arguments = list(inspect.signature(CURVES[curve]).parameters.values())[1:]
    return {
        argument.name: None if argument.default is inspect.Parameter.empty else argument.default
        for argument in arguments
    }


def _rank(u: float, count: int) -> int:
    """Returns which of `count` equal shares of [0, 1] holds u; a border is the lower one's."""
    return min(max(math.ceil(u * count) - 1, 0), count - 1)


def _check_range(least: Number, most: Number) -> None:
    if least >= most:
        raise ValueError(f"min {least} is not less than max {most}")
