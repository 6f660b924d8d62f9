"""Tables for people that never cut or break a figure, however narrow the terminal.

A table as wide as its cells is shown as one; a wider one folds its long texts between words; where
even that does not fit, each row becomes lines of "heading value". A pipe or a file has no edge, so
there a row is one line.
"""

import io
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

ENDLESS = 10_000  # columns of a pipe
WHOLE = 24  # characters: a longer cell is a text, which may be folded between words
BORDER = 3  # columns that a cell takes beside its content
GAP = "  "
# Commands to a terminal all begin with a control character; the last ones turn texts around.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def make_console() -> Console:
    """Returns a console as wide as the terminal, or as $COLUMNS says; else without an edge.

    A letter that the output's encoding does not have becomes a question mark, not an error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    has_edge = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if has_edge else ENDLESS)


def say(console: Console, line: str) -> None:
    """Prints a line as it is: no markup, no colours, no wrapping."""
    console.print(CONTROL.sub("", line), markup=False, highlight=False, soft_wrap=True)


class WholeTable:
    """Rows under headings, to be printed by a console; cells are taken as they are, not as markup.

    Args:
        headings: One for each column.
        left: Those of columns that begin at the left, as texts do; figures end at the right.
        title: Above the table.
        caption: Below it.
        lines: Whether lines part the rows.
    """

    def __init__(
        self,
        headings: Sequence[str],
        *,
        left: Collection[str] = (),
        title: str = "",
        caption: str = "",
        lines: bool = False,
    ) -> None:
        # A stranger's folder names settings and hosts; none may give the terminal a command.
        self.headings = tuple(CONTROL.sub("", heading) for heading in headings)
        self.left = frozenset(left)
        self.title, self.caption, self.lines = title, caption, lines
        self.rows: list[tuple[tuple[str, ...], str]] = []

    def add_row(self, *cells: str, style: str = "") -> None:
        """Adds a row of as many cells as there are headings."""
        if len(cells) != len(self.headings):
            raise ValueError(f"{len(cells)} cells under {len(self.headings)} headings")
        self.rows.append((tuple(CONTROL.sub("", cell) for cell in cells), style))

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yields a table, or lines where the console is too narrow for one."""
        widths = self._widths(options.max_width)
        if widths is not None:
            yield self._as_table(widths)
            return
        if self.title:
            yield Text(self.title, style="table.title")
        for cells, style in self.rows:
            lines = self._as_lines(console, cells, options.max_width)
            yield Text("\n".join(lines), style=style)
        if self.caption:
            yield Text(self.caption, style="table.caption")

    def _widths(self, room: int) -> list[int] | None:
        """Returns the width of each column's content; None if no table fits into the room."""
        columns = list(zip(self.headings, *(cells for cells, _ in self.rows), strict=True))
        wanted = [max(map(_full_width, column)) for column in columns]
        least = [max(map(_least_width, column)) for column in columns]
        spare = room - 1 - BORDER * len(columns)
        if sum(least) > spare:
            return None
        limit = max(wanted)
        while sum(_limited(wanted, least, limit)) > spare:  # the widest columns give way first
            limit -= 1
        return _limited(wanted, least, limit)

    def _as_table(self, widths: Sequence[int]) -> Table:
        table = Table(
            title=Text(self.title) if self.title else None,
            caption=Text(self.caption) if self.caption else None,
            title_justify="left",
            caption_justify="left",
            show_lines=self.lines,
        )
        for heading, width in zip(self.headings, widths, strict=True):
            side = "left" if heading in self.left else "right"
            table.add_column(Text(heading), justify=side, width=width, overflow="fold")  # type: ignore[arg-type]
        for cells, style in self.rows:
            table.add_row(*map(Text, cells), style=style)
        return table

    def _as_lines(self, console: Console, cells: Sequence[str], room: int) -> list[str]:
        """Returns a row as lines of "heading value", all but the first indented."""
        lines = [""]
        for heading, cell in zip(self.headings, cells, strict=True):
            folded = Text(f"{heading} {cell}").wrap(console, room - len(GAP), overflow="fold")
            first, *rest = (line.plain.rstrip() for line in folded)
            whole = lines[-1] + GAP + first if lines[-1] else first
            if cell_len(whole) <= room:
                lines[-1] = whole
            else:
                lines.append(GAP + first)
            lines += [GAP + line for line in rest]
        return lines


def _limited(wanted: Sequence[int], least: Sequence[int], limit: int) -> list[int]:
    return [max(few, min(many, limit)) for many, few in zip(wanted, least, strict=True)]


def _full_width(cell: str) -> int:
    return max(map(cell_len, cell.splitlines()), default=0)


def _least_width(cell: str) -> int:
    """Returns the columns that a cell takes at least: of a text, those of its longest word."""
    width = _full_width(cell)
    return width if width <= WHOLE else max(map(cell_len, cell.split()), default=0)
