"""The storage of a sweep, found by the sweep's name, its folder, or "latest"."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from gridclip.io.errors import InputError
from gridclip.sweeps.storage.journal import Journal
from gridclip.sweeps.storage.protocol import Storage

JOURNAL = "journal.jsonl"
ADDRESS = "storage.txt"  # where a sweep is kept whose folder has no journal


def open_storage(folder: Path, address: str | None) -> Storage:
    """The storage of the sweep that has this folder, be it begun or not.

    Args:
        folder: The sweep's folder on this machine; its name is the sweep's id.
        address: A database, as SQLAlchemy writes it; None for the one named in the folder, or
            else the journal there.

    Raises:
        InputError: if the database cannot be reached, or its driver is not installed.
    """
    noted = folder / ADDRESS
    if address is None and noted.exists():
        address = noted.read_text(encoding="utf-8").strip()
    if address is None:
        return Journal(folder / JOURNAL)
    storage: Storage = _databases().connect(address, folder)
    return storage


def note_address(folder: Path, address: str | None) -> None:
    """Leave in a sweep's folder where it is kept, without the password if it has one."""
    if address is not None:
        told = _databases().without_password(address)
        (folder / ADDRESS).write_text(f"{told}\n", encoding="utf-8")


def find_sweep(name: str, root: Path, address: str | None) -> tuple[Path, Storage]:
    """The folder of a sweep and its storage.

    Args:
        name: The sweep's id, the path of its folder, or "latest".
        root: The folder of the sweeps' folders.
        address: A database, if the sweep is kept in one that its folder does not name.

    Raises:
        InputError: if there is no such sweep.
    """
    known = known_sweeps(root, address)
    if name == "latest" and known:
        name = known[-1]
    folder = Path(name) if Path(name).is_dir() and name not in known else root / name
    if folder.is_dir() or name in known:
        storage = open_storage(folder, address)
        if storage.head() is not None:
            return folder, storage
    shown = ", ".join(known[-5:]) or "none yet"
    raise InputError(f"there is no sweep {name!r}", fix=f"name one of: {shown}", field="ID")


def known_sweeps(root: Path, address: str | None) -> Sequence[str]:
    """The ids of all sweeps here or in a database, the newest last."""
    if address is not None:
        found: list[str] = _databases().connect(address, root / "unnamed").sweeps()
        return found
    folders = [
        folder
        for folder in (root.iterdir() if root.is_dir() else ())
        if (folder / JOURNAL).exists() or (folder / ADDRESS).exists()
    ]
    return [folder.name for folder in sorted(folders, key=_age)]


def _databases() -> ModuleType:
    """The module of databases, whose packages are slow to import and may not be there."""
    try:
        return importlib.import_module("gridclip.sweeps.storage.database")
    except ModuleNotFoundError as error:
        fix = 'run: pip install "gridclip[postgresql]"'
        raise InputError(f"needs {error.name}", fix=fix, field="--storage") from error


def _age(folder: Path) -> tuple[float, str]:
    """By when the sweep began: its copy of the sweep file is never written again."""
    file = folder / "sweep.yaml"
    return (file.stat().st_mtime if file.exists() else 0.0, folder.name)
