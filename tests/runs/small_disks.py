"""Disks of a few megabytes, and what fills one."""

import contextlib
import subprocess
from pathlib import Path


def mount(folder: Path, megabytes: int) -> bool:
    """Makes a folder a disk of its own; returns whether that is allowed here."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """Takes it away, whoever still writes there."""
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def fill(file: Path) -> None:
    """Takes all the room that a disk has."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as rest:
        while rest.write(b"\0" * 65536):
            pass
