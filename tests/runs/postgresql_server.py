"""A PostgreSQL server of the tests' own, which may be broken off and stopped."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class Server:
    """A server that this computer and the machines of a test reach.

    Args:
        port: Where it listens.
        control: The words of pg_ctl.
        start: Those that start it.
        options: Of subprocess.run.
    """

    def __init__(self, port: int, control: list, start: list, options: dict) -> None:
        self.port, self._control, self._start, self._options = port, control, start, options
        self.address = self.address_at("127.0.0.1")

    def address_at(self, host: str) -> str:
        """As `--storage` takes it."""
        return f"postgresql://me@{host}:{self.port}/postgres"

    def crash(self) -> bool:
        """Breaks all connections off, and starts it again."""
        subprocess.run([*self._start, "-m", "immediate", "restart"], **self._options)
        return True

    def down(self, seconds: float) -> bool:
        """Is gone for a while."""
        self.stop()
        time.sleep(seconds)
        subprocess.run([*self._start, "start"], **self._options)
        return True

    def stop(self) -> None:
        """Ends it."""
        subprocess.run([*self._control, "-m", "immediate", "stop"], **self._options)


def new_server() -> Iterator[Server]:
    """Yields a new server, and removes it."""
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    programs = [shutil.which("initdb"), *debian]
    if not any(programs):
        pytest.skip("no PostgreSQL server here; Debian has it as the package postgresql")
    pytest.importorskip("psycopg", reason="no driver: pip install psycopg[binary]")
    initdb = Path(next(program for program in programs if program)).resolve()
    user = None
    if os.getuid() == 0:  # whom the server refuses
        user = next(name for name in ("postgres", "nobody") if _has_user(name))
    folder = Path(tempfile.mkdtemp())  # one that the other user can reach
    if user:
        shutil.chown(folder, user)
    options = {"user": user, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
    data = str(folder / "data")
    trust = ["--auth=trust", "--username=me", "--no-sync", "--encoding=UTF8"]
    subprocess.run([initdb, "--pgdata", data, *trust], **options)
    with (folder / "data" / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.231.0.0/16 trust\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    control = [initdb.with_name("pg_ctl"), "--pgdata", data, "--wait"]
    listens = f"-h 0.0.0.0 -p {port} -k {folder}"
    start = [*control, "-o", listens, "-l", str(folder / "log")]
    subprocess.run([*start, "start"], **options)
    server = Server(port, control, start, options)
    yield server
    server.stop()
    shutil.rmtree(folder)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
