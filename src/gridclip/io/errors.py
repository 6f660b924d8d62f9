"""The one error for bad input: it names the file, the field and the fix."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """What a person gave is wrong, and this is how to mend it.

    Args:
        problem: What is wrong, with the offending value.
        fix: What to do about it, as an instruction.
        file: The file at fault, if there is one.
        field: The field, key or argument at fault, if there is one.
    """

    def __init__(
        self,
        problem: str,
        *,
        fix: str = "",
        file: str | Path | None = None,
        field: str | None = None,
    ) -> None:
        # Only a worker process leaves out the fix: torch builds its error again from the text.
        place = [str(part) for part in (file, field) if part is not None]
        advice = f"\n  fix: {fix}" if fix else ""
        super().__init__(": ".join([*place, problem]) + advice)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Says in one line how to install packages that not every user needs: those imported within.

    Args:
        extra: What brings them, by its name among the package's optional dependencies.

    Raises:
        InputError: if one of them cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(f"{error}; run: pip install 'gridclip[{extra}]'") from error


def require_range(
    value: float | int,
    field: str,
    *,
    least: float | int = -math.inf,
    above: float | int = -math.inf,
    most: float | int = math.inf,
    below: float | int = math.inf,
) -> None:
    """Refuses a setting outside a range; NaN and infinities are outside every one.

    Args:
        value: The setting.
        field: Its name, as a user writes it.
        least: The lowest value that is in the range; or instead
        above: the highest value that is too low.
        most: The highest value that is in the range; or instead
        below: the lowest value that is too high.

    Raises:
        InputError: naming it and the range.
    """
    # By default infinities are neither above nor below, and no comparison holds for NaN.
    if not (least <= value <= most and above < value < below):
        if math.isinf(most) and math.isinf(below):
            wanted = f"a number above {above}" if above > least else f"{least} or more"
        else:
            low = f"({above}" if above > least else f"[{least}"
            high = f"{below})" if below < most else f"{most}]"
            wanted = f"a number in {low}, {high}"
        raise InputError(f"{value} is out of range", fix=f"give {wanted}", field=field)


def require_at_least(least: float | int, /, **values: float | int) -> None:
    """Refuses settings below `least`, by their names; see `require_range`."""
    for field, value in values.items():
        require_range(value, field, least=least)


def require_positive(**values: float | int) -> None:
    """Refuses settings that are not above 0, by their names; see `require_range`."""
    for field, value in values.items():
        require_range(value, field, above=0)


def require_fraction(**values: float | int) -> None:
    """Refuses settings outside [0, 1], by their names; see `require_range`."""
    for field, value in values.items():
        require_range(value, field, least=0, most=1)
