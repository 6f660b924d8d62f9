"""Keeps what was found while `gridclip detect` goes on, so that no end of it loses any.

Each image becomes a line of `detections.jsonl` at once: whatever kills the process, the lines
before are whole. From these lines `detections.json` is made, and made again while the command goes
on, where that takes a twentieth of the time at most; it appears whole each time, so there is always
one that can be read. When the command ends, however it ends but by `kill -9`, it is made once more,
and the lines are removed.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gridclip.engine.detect.findings import Findings
from gridclip.engine.detect.formats import Format, Row, make_format, write_entries
from gridclip.engine.detect.sources import Frame


class SavedFindings:
    """The files of what was found.

    Args:
        output: Their folder.
        formats: Names of the forms that are written beside `detections.json`.
        names: What is looked for.
    """

    def __init__(self, output: Path, formats: Sequence[str], names: Sequence[str]) -> None:
        self.file, self.lines = output / "detections.json", output / "detections.jsonl"
        self.formats: list[Format] = [make_format(each, output, names) for each in formats]
        self._due = 0.0

    def __enter__(self) -> "SavedFindings":
        self.lines.parent.mkdir(parents=True, exist_ok=True)
        self._journal = self.lines.open("w", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        place: TracebackType | None,
    ) -> None:
        self._journal.close()
        self._make_whole()
        for each in self.formats:
            each.close()
        self.lines.unlink()

    def add(self, frame: Frame, stem: str, found: Findings) -> None:
        """Adds what was found in a frame; `stem` is what the files of its source begin with."""
        row = Row(frame.name, frame.source.name, frame.number, found.width, found.height, [*found])
        line = row.to_json() | {"found": found.to_rows()}  # with masks, if there are any
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()
        for each in self.formats:
            each.add(row, stem)
        began = time.monotonic()
        if began >= self._due:
            self._make_whole()
            self._due = began + 1 + 20 * (time.monotonic() - began)

    def _make_whole(self) -> None:
        rows = (f"{json.dumps(row['name'])}: {json.dumps(row['found'])}" for row in self._rows())
        write_entries(self.file, rows, before="{", after="}")
        for each in self.formats:
            each.make_whole(self._rows)

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.lines.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
