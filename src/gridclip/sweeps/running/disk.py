"""Whether a disk has room, and whether the want of it is why something failed.

A full disk is no fault of a trial, and passes: somebody makes room, or a quota is raised. So what
ended by it is run again, and nothing new is started as long as it lasts.
"""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

LEAST = 4 << 20  # bytes that a folder needs before a trial is started in it
PROBE = 1 << 16  # bytes that are written to find a quota, which the system's figures leave out
FULL = (errno.ENOSPC, errno.EDQUOT)
TOLD = tuple(os.strerror(number) for number in FULL)


def is_full(error: OSError) -> bool:
    """Returns whether an error says that a disk, or a quota, is full."""
    return error.errno in FULL


def has_room(folder: Path) -> bool:
    """Returns whether a little can be written into a folder.

    Any other reason against it, as that the folder is not there, is not for this to find.
    """
    probe = folder / f".{secrets.token_hex(4)}.probe"
    try:
        if shutil.disk_usage(folder).free < LEAST:
            return False
        probe.write_bytes(b"\0" * PROBE)
    except OSError as error:
        return not is_full(error)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True


def tells_of_full_disk(log: str) -> bool:
    """Returns whether a program said before it ended that a disk was full, maybe another one."""
    return any(words in log for words in TOLD)
