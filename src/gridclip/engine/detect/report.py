"""Says how far `gridclip detect` is: a line an image or video, a bar with images per second."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from gridclip.engine.detect.findings import Findings
from gridclip.engine.detect.sources import Frame, Source
from gridclip.io.tables import make_console, say


class _Rate(ProgressColumn):
    """Images per second, of the last seconds."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} images/s")


class Report:
    """What a person sees of a search; the bar is left out where nobody looks, as in a pipe.

    Args:
        total: Frames that there are; None if that is open.
    """

    def __init__(self, total: int | None) -> None:
        self._console = make_console()
        columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task = self._bar.add_task("", total=total)
        self._video: Source | None = None
        self._frames = self._objects = self._done = 0
        self._drawing: Path | None = None
        self._began = time.monotonic()

    def __enter__(self) -> "Report":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, frame: Frame, found: Findings, drawing: Path | None) -> None:
        """Tells of a frame that was searched: an image at once, a video when it is over."""
        self._done += 1
        self._bar.advance(self._task)
        if frame.source != self._video:
            self._tell_video()
        if frame.number is None:
            turned = ", turned upright as its EXIF says" * frame.turned
            self.say(f"{frame.name}{turned}: {len(found)} found{_in(drawing)}")
        else:
            self._video, self._drawing = frame.source, drawing
            self._frames, self._objects = self._frames + 1, self._objects + len(found)

    def conclude(self, file: Path, formats: Sequence[str]) -> None:
        """Tells where the results are, and how quickly they came."""
        self._tell_video()
        self._bar.stop()
        seconds = time.monotonic() - self._began
        each = f": {self._done / seconds:.1f} images per second" if self._done > 1 else ""
        self.say(f"{self._done} image{'s' * (self._done != 1)} in {seconds:.1f} s{each}")
        more = f"; {', '.join(formats)} beside it" if formats else ""
        self.say(f"boxes (xyxy, pixels of the upright image): {file}{more}")

    def say(self, line: str) -> None:
        """Prints a line, above the bar."""
        say(self._console, line)

    def _tell_video(self) -> None:
        if self._video is not None:
            many = f"{self._objects} found in {self._frames} frames"
            self.say(f"{self._video.name}: {many}{_in(self._drawing)}")
        self._video, self._frames, self._objects = None, 0, 0


def _in(drawing: Path | None) -> str:
    return "" if drawing is None else f", drawn in {drawing}"
