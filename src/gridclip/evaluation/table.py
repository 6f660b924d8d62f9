"""A table of runs for the terminal."""

import math
from collections.abc import Collection, Mapping, Sequence

from rich.table import Table

from gridclip.evaluation.lvis import FIGURES


def metrics_table(
    rows: Sequence[Mapping[str, object]], title: str, fractions: Collection[str] = FIGURES
) -> Table:
    """Runs as rows, in the columns that any of them has, in the order of their first appearance.

    Args:
        rows: Column name to value. What is missing, None or nan shows as a dash.
        title: What the figures are of: name the protocol and the data set in it.
        fractions: The columns that are shown in percent.
    """
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name, justify="right" if name in fractions else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(name), name in fractions) for name in columns))
    return table


def _cell(value: object, percent: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{100 * value:.1f}" if percent and isinstance(value, int | float) else str(value)
