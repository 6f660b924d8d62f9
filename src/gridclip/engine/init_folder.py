"""A folder to work in, for those who installed the package and have no checkout of it.

The rows and sweeps of the repository are copied, so that every command of the documents finds them
where it says. They lie in the repository once: the wheel has them beside this file, under
`starter`; in a checkout they are at its root.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gridclip.io.errors import InputError
from gridclip.io.files import require_writable, write_text
from gridclip.io.tables import make_console, say

STARTER = Path(__file__).parent / "starter"
CHECKOUT = Path(__file__).parents[3]
FOLDERS = ("experiments", "sweeps")


class Copied(NamedTuple):
    """A file to write."""

    source: Path
    target: Path


def init_folder(dir: Path) -> None:
    """Write rows, sweeps and a README to start from; a file that is there stays as it is.

    Args:
        dir: The folder to work in; made if it is not there. A second time, as after an upgrade, it
            gets what is new, and files that are no longer the package's own are named.

    Raises:
        InputError: if it is a file, or cannot be written.
    """
    if dir.exists() and not dir.is_dir():
        raise InputError(f"{dir} is no folder", fix="name a folder, new or not", field="dir")
    require_writable(dir / "README.md", field="dir")
    console, written, kept = make_console(), 0, []
    for source, target in _files(dir):
        text = source.read_text(encoding="utf-8")
        if not target.exists():
            write_text(target, text)
            written += 1
        elif target.read_text(encoding="utf-8") != text:
            kept.append(str(target.relative_to(dir)))
    say(console, f"{written} files written into {dir}")
    if kept:
        say(console, f"kept as they were, though the package's differ: {', '.join(kept)}")
    say(console, f"next: cd {dir}, and read README.md")


def _files(folder: Path) -> Iterator[Copied]:
    """Yields what a folder to work in holds."""
    yield Copied(STARTER / "README.md", folder / "README.md")
    root = STARTER if (STARTER / FOLDERS[0]).is_dir() else CHECKOUT
    for name in FOLDERS:
        for source in sorted((root / name).rglob("*.yaml")):
            yield Copied(source, folder / source.relative_to(root))
