"""The one error for bad input: it names the file, the field and the fix."""

import math
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


def require_at_least(least: int, **values: float | int) -> None:
    """Refuse a setting that is too small, or no number.

    Raises:
        InputError: naming it.
    """
    for field, value in values.items():
        if not least <= value < math.inf:
            raise InputError(f"{value} is below {least}", fix=f"give {least} or more", field=field)
