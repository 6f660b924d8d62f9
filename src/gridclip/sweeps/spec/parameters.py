"""The `parameters` of a sweep file: what is swept, and by which distribution."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gridclip.io.errors import InputError
from gridclip.sweeps.spec.distributions import (
    CURVES,
    QUANTISED,
    Choice,
    Distribution,
    Integers,
    Numbers,
    settings_of,
)
from gridclip.sweeps.spec.yaml_section import Number, Section

# What a point gives each parameter, by its full name. The values are whatever YAML holds.
Point = Mapping[str, object]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # W&B's rule: a dot may stand in a name, no slash
# The keys of the distributions without a curve, and their defaults; None must be given.
KEYS: dict[str, dict[str, Number | None]] = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    "int_uniform": {"min": None, "max": None},
}
DISTRIBUTIONS = (*KEYS, *CURVES, *sorted(QUANTISED))


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One swept (or constant) setting.

    Args:
        path: Its name; several keys where the file nests `parameters` in a parameter.
        distribution: What its values are drawn from.
    """

    path: tuple[str, ...]
    distribution: Distribution

    @property
    def name(self) -> str:
        """The keys of its path, joined by dots."""
        return ".".join(self.path)

    @property
    def is_constant(self) -> bool:
        """Whether every trial gets the same value."""
        return isinstance(self.distribution, Choice) and len(self.distribution.values) == 1


def read_parameters(section: Section, *, grid: bool) -> tuple[Parameter, ...]:
    """Reads `parameters`, in W&B's order: sorted by name, level by level.

    Args:
        section: The mapping under the key `parameters`.
        grid: Whether a grid is to be made of them, which not every distribution allows.

    Raises:
        InputError: if a name, a key or a value is none that W&B takes.
    """
    parameters = tuple(_walk(section, (), grid))
    seen: set[str] = set()
    for parameter in parameters:
        if parameter.name in seen:
            raise section.fault(None, f"{parameter.name!r} is named twice", "keep one of them")
        seen.add(parameter.name)
    return parameters


def arguments(parameters: tuple[Parameter, ...], point: Point) -> dict[str, Any]:
    """Returns the arguments of a program at a point; nested parameters become mappings."""
    tree: dict[str, Any] = {}
    for parameter in parameters:
        branch = tree
        for key in parameter.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[parameter.path[-1]] = point[parameter.name]
    return tree


def swept(parameters: Iterable[Parameter]) -> list[str]:
    """Returns the full names of the parameters that differ between trials."""
    return [parameter.name for parameter in parameters if not parameter.is_constant]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the shortest ends of dotted names that keep them distinct, by full name."""
    parts = {name: name.split(".") for name in names}
    short = {}
    for name, words in parts.items():
        others = [other for other in names if other != name]
        ends = [".".join(words[start:]) for start in reversed(range(len(words)))]
        short[name] = next(
            (end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)),
            name,
        )
    return short


def _walk(section: Section, path: tuple[str, ...], grid: bool) -> Iterator[Parameter]:
    if not section:
        raise section.fault(None, "nothing is swept", "name at least one parameter")
    for name in sorted(section):
        if not NAME.fullmatch(name):
            raise section.fault(
                name, f"{name!r} is no name W&B takes", "use letters, digits, '_', '.' and '-'"
            )
        if not isinstance(section.data[name], dict):
            raise section.fault(
                name, "is a bare value", f"write {name}: {{value: {section.data[name]!r}}}"
            )
        inner = section.section(name)
        if "parameters" in inner:
            inner.accept(["parameters"])
            yield from _walk(inner.section("parameters"), (*path, name), grid)
            continue
        distribution = _read_distribution(inner)
        if grid and distribution.grid() is None:
            raise inner.fault(
                None,
                f"no grid can be made of it ({_distribution_name(inner)})",
                "give values, int_uniform or q_uniform, or choose method: random",
            )
        yield Parameter(path=(*path, name), distribution=distribution)


def _distribution_name(section: Section) -> str:
    """Returns the name of the distribution: what the file says, else what the keys imply."""
    if "distribution" in section:
        return section.choice("distribution", DISTRIBUTIONS)
    if "value" in section:
        return "constant"
    if "values" in section:
        return "categorical_w_probabilities" if "probabilities" in section else "categorical"
    if "min" in section and "max" in section:
        kinds = {type(section.number("min")), type(section.number("max"))}
        if len(kinds) > 1:
            raise section.fault(
                None,
                "min and max are a whole number and one that is not, which `wandb sweep` refuses",
                "write both with a point, or both without",
            )
        return "int_uniform" if kinds == {int} else "uniform"
    raise section.fault(None, "has no values", "give value, values, min and max, or a distribution")


def _read_distribution(section: Section) -> Distribution:
    name = _distribution_name(section)
    keys = _keys(name)
    section.accept(["distribution", *keys])
    section.require(*(key for key, default in keys.items() if default is None))
    try:
        return _make_distribution(name, section, keys)
    except InputError:
        raise
    except ValueError as error:  # what a distribution says of its own settings
        raise section.fault(None, str(error), "mend the values") from error


def _make_distribution(
    name: str, section: Section, keys: Mapping[str, Number | None]
) -> Distribution:
    if name == "constant":
        _require_text_keys(section.data["value"])
        return Choice(values=(section.data["value"],))
    if "values" in keys:
        shares = section.numbers("probabilities") if "probabilities" in keys else None
        _require_text_keys(section.items("values"))
        return Choice(values=tuple(section.items("values")), probabilities=shares)
    if name == "int_uniform":
        return Integers(min=section.whole("min"), max=section.whole("max"))
    settings = {key: section.number(key, default) for key, default in keys.items()}
    step = settings.pop("q", None)
    return Numbers(name=name.removeprefix("q_"), settings=settings, q=step)


def _require_text_keys(value: object) -> None:
    """Refuses a value with a mapping that JSON would change, and W&B keeps sweeps as JSON."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} in a value is no text, put it in quotes")
    for entry in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _require_text_keys(entry)


def _keys(distribution: str) -> dict[str, Number | None]:
    """Returns the keys that a distribution takes, and their defaults; None must be given."""
    if distribution in KEYS:
        return KEYS[distribution]
    step: dict[str, Number | None] = {"q": 1.0} if distribution in QUANTISED else {}
    return settings_of(distribution.removeprefix("q_")) | step
