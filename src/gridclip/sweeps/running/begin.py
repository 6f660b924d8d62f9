"""To begin a sweep, or to go on with one: its folder, its storage, and the file it began with."""

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gridclip.io.errors import InputError
from gridclip.sweeps.running.claims import now
from gridclip.sweeps.spec.sweep_file import SweepSpec
from gridclip.sweeps.storage.opening import find_sweep, note_address, open_storage
from gridclip.sweeps.storage.protocol import Head, Storage

SWEEP_FILE = "sweep.yaml"


class Begun(NamedTuple):
    """A sweep that is there.

    Args:
        folder: Its folder on this machine.
        storage: Where its runners meet.
        head: What it is.
    """

    folder: Path
    storage: Storage
    head: Head


def begin(
    spec: SweepSpec, root: Path, address: str | None, *, seed: int, cap: int | None, lease: float
) -> Begun:
    """Make the folder of a new sweep, named after the file and the time, and its storage.

    Args:
        spec: Its file.
        root: Where the folder is made.
        address: A database; None for a journal in the folder.
        seed: Of its search.
        cap: No more trials than this.
        lease: Seconds of silence after which a runner counts as gone.

    Raises:
        InputError: if the folder cannot be made or the database not be reached.
    """
    if address is not None:
        open_storage(root / "unnamed", address)  # refused here if it cannot be reached
    folder = _make_folder(root, spec.name)
    shutil.copyfile(spec.file, folder / SWEEP_FILE)
    note_address(folder, address)
    head = Head(
        id=folder.name,
        uid=secrets.token_hex(8),
        text=spec.file.read_text(encoding="utf-8"),
        seed=seed,
        cap=cap,
        lease=lease,
        created=now(),
    )
    storage = open_storage(folder, address)
    storage.create(head)
    return Begun(folder, storage, head)


def go_on(
    name: str, spec: SweepSpec, root: Path, address: str | None, *, seed: int | None
) -> Begun:
    """Find a sweep that was begun, here or on another machine.

    Args:
        name: Its id, the path of its folder, or "latest".
        spec: The file as it is now.
        root: Where the sweeps' folders are.
        address: A database, if the folder does not name it.
        seed: If one was given.

    Raises:
        InputError: if there is no such sweep, or the file or the seed is not the one it began with.
    """
    folder, storage = find_sweep(name, root, address)
    head = storage.head()
    assert head is not None
    now_said = yaml.safe_load(spec.file.read_text(encoding="utf-8"))
    changed = list(_differences(yaml.safe_load(head.text), now_said, ""))
    if changed:
        raise InputError(
            f"is not what {head.id} began with: {'; '.join(changed)}",
            fix="put it back, or begin a new sweep without --resume",
            file=spec.file,
        )
    if seed is not None and seed != head.seed:
        problem = f"{head.id} began with seed {head.seed}, not {seed}"
        raise InputError(problem, fix="leave it out", field="--seed")
    if not (folder / SWEEP_FILE).exists():  # another machine began it
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SWEEP_FILE).write_text(head.text, encoding="utf-8")
        note_address(folder, address)
    return Begun(folder, storage, head)


def _differences(before: Any, after: Any, key: str) -> Iterator[str]:  # noqa: ANN401 - YAML
    """What changed between two contents of a YAML file, by dotted key."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{key}.{name}" if key else str(name)
            if name not in after:
                yield f"{inner} is gone"
            elif name not in before:
                yield f"{inner} is new"
            else:
                yield from _differences(before[name], after[name], inner)
    elif type(before) is not type(after) or before != after:
        yield f"{key} was {before!r} and is {after!r}"


def _make_folder(root: Path, name: str) -> Path:
    """A new folder, named after the sweep and the time."""
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{time.strftime('%Y%m%d-%H%M%S')}"
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
