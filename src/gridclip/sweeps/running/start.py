"""Starts, resumes and finds a sweep: its folder, its storage, and its copy of the sweep file."""

import importlib
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml

from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import write_text
from gridclip.sweeps.running.claims import now
from gridclip.sweeps.search.search import make_search, planned
from gridclip.sweeps.spec.distributions import identity
from gridclip.sweeps.spec.sweep_file import SweepSpec, read_sweep
from gridclip.sweeps.storage.journal import Journal, require_locks
from gridclip.sweeps.storage.protocol import Storage, SweepInfo

SWEEP_FILE = "sweep.yaml"
JOURNAL = "journal.jsonl"
MOST_BYTES = 100  # of a sweep's name in its id: folders take 255, W&B's groups 128
ADDRESS = "storage.txt"  # the database of a sweep whose folder has no journal


class StoredSweep(NamedTuple):
    """A sweep that exists.

    Args:
        folder: Its folder on this machine.
        storage: Where its runners meet.
        info: What was fixed when it started.
    """

    folder: Path
    storage: Storage
    info: SweepInfo

    def spec(self) -> SweepSpec:
        """Returns its file as it was at the start; written here if another machine started it."""
        file = self.folder / SWEEP_FILE
        if not file.exists():
            write_text(file, self.info.text)
        return read_sweep(file)


class Start(NamedTuple):
    """What a command says of the sweep that it begins or goes on with.

    Args:
        resume: The sweep to go on with; None for a new one.
        seed: Of the search, if one was given.
        cap: No more trials than this.
        lease: Seconds of silence after which a runner counts as gone.
    """

    resume: str | None
    seed: int | None
    cap: int | None
    lease: float = 120.0


def start_or_resume(spec: SweepSpec, root: Path, address: str | None, start: Start) -> StoredSweep:
    """Returns a new sweep, or the one that is to be gone on with.

    Args:
        spec: Its file.
        root: Where the sweeps' folders are.
        address: A database; None for a journal in the folder, or what the folder names.
        start: What is said of it.

    Raises:
        InputError: as `start_sweep` and `resume_sweep` do.
    """
    resume, seed, cap, lease = start
    require_at_least(1, **{"--lease": lease})
    if resume is not None:
        return resume_sweep(resume, spec, root, address, seed=seed)
    planned(spec, make_search(spec, seed=seed or 0), cap)  # refused before a folder is made
    return start_sweep(spec, root, address, seed=seed or 0, cap=cap, lease=lease)


def start_sweep(
    spec: SweepSpec, root: Path, address: str | None, *, seed: int, cap: int | None, lease: float
) -> StoredSweep:
    """Makes the folder of a new sweep, named after the file and the time, and its storage.

    Args:
        spec: Its file.
        root: Where the folder is made.
        address: A database; None for a journal in the folder.
        seed: Of its search.
        cap: No more trials than this.
        lease: Seconds of silence after which a runner counts as gone.

    Raises:
        InputError: if the folder cannot be made or the database cannot be reached.
    """
    if address is not None:
        open_storage(root / "unnamed", address)  # refused here if it cannot be reached
    folder = _make_folder(root, spec.name)
    if address is None:
        try:
            require_locks(folder)
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    shutil.copyfile(spec.file, folder / SWEEP_FILE)
    note_address(folder, address)
    info = SweepInfo(
        id=folder.name,
        uid=secrets.token_hex(8),
        text=spec.file.read_text(encoding="utf-8"),
        seed=seed,
        cap=cap,
        lease=lease,
        created=now(),
    )
    storage = open_storage(folder, address)
    storage.create(info)
    return StoredSweep(folder, storage, info)


def resume_sweep(
    name: str, spec: SweepSpec, root: Path, address: str | None, *, seed: int | None
) -> StoredSweep:
    """Returns a sweep that was started here or on another machine, to go on with it.

    Args:
        name: Its id, the path of its folder, or "latest".
        spec: The file as it is now.
        root: Where the sweeps' folders are.
        address: A database, if the folder does not name it.
        seed: If one was given.

    Raises:
        InputError: if there is no such sweep, or the file or the seed is not that of its start.
    """
    sweep = find_sweep(name, root, address)
    if isinstance(sweep.storage, Journal):
        require_locks(sweep.folder)
    content = yaml.safe_load(spec.file.read_text(encoding="utf-8"))
    changed = list(_differences(yaml.safe_load(sweep.info.text), content, ""))
    if changed:
        raise InputError(
            f"is not what {sweep.info.id} began with: {'; '.join(changed)}",
            fix="put it back, or begin a new sweep without --resume",
            file=spec.file,
        )
    if seed is not None and seed != sweep.info.seed:
        problem = f"{sweep.info.id} began with seed {sweep.info.seed}, not {seed}"
        raise InputError(problem, fix="leave it out", field="--seed")
    if not (sweep.folder / SWEEP_FILE).exists():  # another machine started it
        sweep.spec()
        note_address(sweep.folder, address)
    return sweep


def find_sweep(name: str, root: Path, address: str | None = None) -> StoredSweep:
    """Returns the sweep of a name.

    Args:
        name: The sweep's id, the path of its folder, or "latest".
        root: The folder of the sweeps' folders.
        address: A database, if the sweep is kept in one that its folder does not name.

    Raises:
        InputError: if there is no such sweep, or its database cannot be reached.
    """
    known = known_sweeps(root, address)
    if name == "latest" and known:
        name = known[-1]
    folder = Path(name) if Path(name).is_dir() and name not in known else root / name
    if folder.is_dir() or name in known:
        storage = open_storage(folder, address)
        info = storage.info()
        if info is not None:
            return StoredSweep(folder, storage, info)
    fix = "run one: gridclip sweep run sweeps/mini.yaml"
    if known:
        fix = f"name one of: {', '.join(known[-5:])}"
    raise InputError(f"there is no sweep {name!r}", fix=fix, field="ID")


def known_sweeps(root: Path, address: str | None) -> Sequence[str]:
    """Returns the ids of all sweeps in a folder or in a database, the newest last."""
    if address is not None:
        found: list[str] = _databases().connect(address, root / "unnamed").sweeps()
        return found
    folders = [
        folder
        for folder in (root.iterdir() if root.is_dir() else ())
        if (folder / JOURNAL).exists() or (folder / ADDRESS).exists()
    ]
    return [folder.name for folder in sorted(folders, key=_age)]


def open_storage(folder: Path, address: str | None) -> Storage:
    """Returns the storage of the sweep that has this folder, whether it was started or not.

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
    """Writes into a sweep's folder which database it is in, without the password."""
    if address is not None:
        write_text(folder / ADDRESS, f"{without_password(address)}\n")


def without_password(address: str) -> str:
    """Returns the address of a database as it may lie in a file."""
    address = _databases().without_password(address)
    return address


def _databases() -> ModuleType:
    """Returns the module of databases, whose packages are slow to import."""
    return importlib.import_module("gridclip.sweeps.storage.database")


def _age(folder: Path) -> tuple[float, str]:
    """Returns when the sweep started: its copy of the sweep file is never written again."""
    file = folder / SWEEP_FILE
    return (file.stat().st_mtime if file.exists() else 0.0, folder.name)


def _differences(before: Any, after: Any, key: str) -> Iterator[str]:  # noqa: ANN401 - YAML
    """Yields what changed between two contents of a YAML file, by dotted key."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{key}.{name}" if key else str(name)
            if name not in after:
                yield f"{inner} is gone"
            elif name not in before:
                yield f"{inner} is new"
            else:
                yield from _differences(before[name], after[name], inner)
    elif type(before) is not type(after) or identity(before) != identity(after):  # nan is nan
        yield f"{key} was {before!r} and is {after!r}"


def _make_folder(root: Path, name: str) -> Path:
    """Makes a new folder, named after the sweep and the time."""
    stem = f"{_as_folder(name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(str(error), fix="give another --dir", field="--dir") from error
        return folder
    raise InputError(f"{stem} is taken", fix="wait a second", field="--dir")


def _as_folder(name: str) -> str:
    """Returns a name that folders and W&B take: letters and digits of any script.

    No dash comes first, which would make it an option.
    """
    whole = unicodedata.normalize("NFC", name)
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in "._-" else " " for c in whole)
    words = "-".join("".join(kept).split())
    short = words.encode()[:MOST_BYTES].decode(errors="ignore")
    return short.strip("._-") or "sweep"
