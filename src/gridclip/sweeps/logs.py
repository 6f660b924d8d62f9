"""The end of a trial's log, for people."""

import re
from pathlib import Path

TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and cursor moves
READ = 200_000  # characters from the end


def log_tail(file: Path, lines: int = 12) -> str:
    """The last lines of a log as a terminal would have left them, without their colours."""
    try:
        # Not read as text, for that takes a carriage return for the end of a line.
        text = file.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""
    plain = TERMINAL_CODE.sub("", text[-READ:])
    # A progress bar redraws its line behind a carriage return; only its last state tells.
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n")]
    return "\n".join([line for line in shown if line.strip()][-lines:])
