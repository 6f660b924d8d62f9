"""A storage in a database that SQLAlchemy reaches, for machines that share no disk.

Each act is one statement, which the database makes atomic; its conditions are those of
`protocol.may_claim` and `may_update`, in SQL.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from gridclip.io.errors import InputError, needing
from gridclip.sweeps.storage.protocol import (
    KnownTrials,
    Runner,
    StorageError,
    StorageLostError,
    SweepInfo,
    SweepState,
)
from gridclip.sweeps.storage.trial import WAITING, Trial, read_record

KINDS = ("postgresql", "postgres", "sqlite")  # those that are tested
DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
# How long a server may be silent, as libpq has it: else a runner whose link is cut hangs for hours,
# and cannot even be stopped. What the address says itself counts more.
NETWORK = {"connect_timeout": 10, "tcp_user_timeout": 15_000}
NETWORK |= {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2}
TABLES = MetaData()
SWEEPS = Table(
    "gridclip_sweeps",
    TABLES,
    Column("id", String(250), primary_key=True),
    Column("created", String(40), nullable=False),
    Column("head", Text, nullable=False),
)
RUNNERS = Table(
    "gridclip_runners",
    TABLES,
    Column("sweep", String(250), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("joined", String(40), nullable=False),
    Column("seen", String(40), nullable=False),
    Column("gone", Boolean, nullable=False),
    Column("asked", Boolean, nullable=False),
    Column("runner", Text, nullable=False),
)
TRIALS = Table(
    "gridclip_trials",
    TABLES,
    Column("sweep", String(250), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("runner", String(40), nullable=False),
    Column("version", Integer, nullable=False),  # one more with each change
    Column("trial", Text, nullable=False),  # all of it, as JSON; NaN is none to a JSON column
)


class Database:
    """A storage in a database.

    Args:
        url: As SQLAlchemy has it.
        sweep: The id of the sweep.
        folder: The folder of the sweep on this machine.
    """

    def __init__(self, url: URL, sweep: str, folder: Path) -> None:
        is_file = url.get_backend_name() == "sqlite"
        waits = {"timeout": 30} if is_file else patience(url)
        self._engine = create_engine(url, pool_pre_ping=True, connect_args=waits)
        self.sweep, self.folder = sweep, folder
        self._file = Path(url.database) if is_file and url.database else None
        self._made = False  # the tables
        self._versions: dict[int, int] = {}  # of each trial as it was last read, by number
        self._trials = KnownTrials()

    def make_tables(self) -> None:
        """Makes the tables where they are not there yet."""
        try:
            with self._connected() as connection:
                TABLES.create_all(connection)
        except (IntegrityError, ProgrammingError):  # another runner makes them at this moment
            with self._connected() as connection:
                TABLES.create_all(connection)
        self._made = True

    def sweeps(self) -> list[str]:
        """Returns the ids of all sweeps in this database, the newest last."""
        with self._connected() as connection:
            found = connection.scalars(select(SWEEPS.c.id).order_by(SWEEPS.c.created, SWEEPS.c.id))
            return list(found)

    def create(self, info: SweepInfo) -> None:
        """Begins the sweep."""
        text = json.dumps(asdict(info))
        row = {"id": self.sweep, "created": info.created, "head": text}
        try:
            with self._connected() as connection:
                connection.execute(insert(SWEEPS).values(row))
        except IntegrityError as error:
            problem = f"a sweep {self.sweep} is in this database already"
            raise InputError(problem, fix="choose another name", field="--storage") from error

    def info(self) -> SweepInfo | None:
        """Returns what the sweep is; None if there is none."""
        query = select(SWEEPS.c.head).where(SWEEPS.c.id == self.sweep)
        with self._connected() as connection:
            text = connection.scalar(query)
        return None if text is None else SweepInfo(**json.loads(text))

    def read(self) -> SweepState:
        """Returns all there is to know; of the trials only those that changed are fetched.

        What has come to a final end never changes, so it is not even asked for.
        """
        mine = (TRIALS.c.sweep == self.sweep) & (TRIALS.c.number > self._trials.done())
        with self._connected() as connection:
            versions = connection.execute(select(TRIALS.c.number, TRIALS.c.version).where(mine))
            changed = [
                number for number, version in versions if self._versions.get(number) != version
            ]
            if changed:
                query = select(TRIALS.c.number, TRIALS.c.version, TRIALS.c.trial)
                where = TRIALS.c.number.in_(changed)
                for number, version, text in connection.execute(query.where(mine, where)):
                    self._versions[number] = version
                    self._trials.put(self._trial(text))
            runners = self._runners(connection)
        return self._trials.state(runners)

    def claim(self, trial: Trial) -> bool:
        """Takes a number, unless another runner was quicker."""
        if trial.attempt > 1:
            states = ("running", *WAITING)
            return self._replace(trial, trial.attempt - 1, TRIALS.c.state.in_(states))
        key = {"sweep": self.sweep, "number": trial.number, "version": 1}
        try:
            with self._connected() as connection:
                connection.execute(insert(TRIALS).values(key | _columns(trial)))
        except IntegrityError:
            return False
        return True

    def update(self, trial: Trial) -> bool:
        """Replaces what is known of a running trial, if its runner still has it."""
        mine = (TRIALS.c.state == "running") & (TRIALS.c.runner == trial.runner)
        return self._replace(trial, trial.attempt, mine)

    def join(self, runner: Runner) -> None:
        """Makes a runner known."""
        row = {
            "sweep": self.sweep,
            "id": runner.id,
            "joined": runner.seen,
            "seen": runner.seen,
            "gone": False,
            "asked": False,
            "runner": json.dumps(asdict(runner)),
        }
        with self._connected() as connection:
            connection.execute(insert(RUNNERS).values(row))

    def beat(self, runner: Runner) -> None:
        """Reports that a runner lives, or that it left."""
        mine = (RUNNERS.c.sweep == self.sweep) & (RUNNERS.c.id == runner.id)
        told = update(RUNNERS).where(mine).values(seen=runner.seen, gone=runner.left)
        with self._connected() as connection:
            if connection.execute(told).rowcount == 0:
                raise StorageLostError("the sweep was deleted from the database while it ran")

    def ask_to_stop(self) -> list[Runner]:
        """Asks all runners that have not left to stop."""
        there = (RUNNERS.c.sweep == self.sweep) & ~RUNNERS.c.gone
        with self._connected() as connection:
            connection.execute(update(RUNNERS).where(there).values(asked=True))
            return [runner for runner in self._runners(connection) if not runner.left]

    def _replace(self, trial: Trial, attempt: int, condition: Any) -> bool:  # noqa: ANN401
        key = (TRIALS.c.sweep == self.sweep) & (TRIALS.c.number == trial.number)
        where = key & (TRIALS.c.attempt == attempt) & condition
        values = {**_columns(trial), "version": TRIALS.c.version + 1}
        with self._connected() as connection:
            return connection.execute(update(TRIALS).where(where).values(values)).rowcount == 1

    def _runners(self, connection: Connection) -> tuple[Runner, ...]:
        columns = (RUNNERS.c.runner, RUNNERS.c.seen, RUNNERS.c.gone, RUNNERS.c.asked)
        query = select(*columns).where(RUNNERS.c.sweep == self.sweep)
        found = connection.execute(query.order_by(RUNNERS.c.joined, RUNNERS.c.id))
        return tuple(
            replace(Runner(**json.loads(text)), seen=seen, left=gone, asked=asked)
            for text, seen, gone, asked in found
        )

    def _trial(self, text: str) -> Trial:
        content = json.loads(text)
        return read_record(content["trial"], self.folder, content["rows"], content["figures"])

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Yields a transaction; what the database says of itself becomes a StorageError."""
        if self._made and self._file and not self._file.exists():  # SQLite would begin a new one
            raise StorageLostError(f"{self._file} was deleted while the sweep ran")
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except ProgrammingError as error:  # of tables that are there, there is no other
            if not self._made:
                raise
            raise StorageLostError(str(error.orig)) from error
        except SQLAlchemyError as error:
            raise StorageError(str(getattr(error, "orig", None) or error)) from error


def patience(url: URL) -> dict[str, int]:
    """Returns for how many seconds (or ms) the driver waits, but for what the address says."""
    return {name: value for name, value in NETWORK.items() if name not in url.query}


def connect(address: str, folder: Path) -> Database:
    """Returns the database at an address, with its tables.

    Args:
        address: As SQLAlchemy writes it.
        folder: The folder of a sweep on this machine; its name is the sweep's id.

    Raises:
        InputError: if the database cannot be reached, or its driver is not installed.
    """
    try:
        with needing("postgresql"):
            database = Database(_parsed(address), folder.name, folder)
            database.make_tables()
    except (SQLAlchemyError, StorageError) as error:
        fix = "give a URL such as postgresql://user@host/database or sqlite:///sweeps.db"
        raise InputError(str(error), fix=fix, field="--storage") from error
    return database


def without_password(address: str) -> str:
    """Returns an address that may lie in a folder; the driver finds passwords elsewhere."""
    url = _parsed(address)._replace(password=None)
    hidden = [name for name in url.query if "password" in name.lower()]  # sslpassword too
    return url.difference_update_query(hidden).render_as_string()


def _parsed(address: str) -> URL:
    """Returns the address with a driver that we install, and a path that holds from anywhere."""
    try:
        url = make_url(address)
    except ValueError as error:  # of the port, which SQLAlchemy lets through
        raise ArgumentError(f"the port is no whole number ({error})") from error
    if url.drivername.partition("+")[0] not in KINDS:
        raise ArgumentError(f"{url.drivername} is none of {', '.join(KINDS)}")
    url = url.set(drivername=DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return url


def _columns(trial: Trial) -> dict[str, object]:
    content = {"trial": trial.record(), "rows": trial.rows or (), "figures": trial.figures}
    return {
        "attempt": trial.attempt,
        "state": trial.state,
        "runner": trial.runner,
        "trial": json.dumps(content, default=str),
    }
