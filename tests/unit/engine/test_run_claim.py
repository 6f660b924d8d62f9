"""A run folder belongs to one run: while it lives, and what it left."""

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from gridclip.engine import run_claim
from gridclip.engine.run_claim import choose_run_dir, claim, is_first_process
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field

ROWS = [Path("experiments/mini/gridclip.yaml")]


def test_two_runs_of_one_second_get_two_folders(tmp_path, monkeypatch):
    clock = SimpleNamespace(strftime=lambda _: "20260102-030405")
    monkeypatch.setattr(run_claim, "time", clock)
    folders = [choose_run_dir(None, ROWS, tmp_path) for _ in "abc"]
    assert [folder.name for folder in folders] == [
        "20260102-030405",
        "20260102-030405-2",
        "20260102-030405-3",
    ]
    assert all(folder.is_dir() for folder in folders)
    assert folders[0].parent == tmp_path / "mini-gridclip"


def test_a_folder_that_is_named_is_taken_and_one_that_is_only_asked_for_is_not_made(
    tmp_path, monkeypatch
):
    assert choose_run_dir(str(tmp_path / "asked"), ROWS, tmp_path) == tmp_path / "asked"
    assert choose_run_dir(None, ROWS, tmp_path, make=False).parent == tmp_path / "mini-gridclip"
    monkeypatch.setenv(run_claim.RUN_DIR_VARIABLE, str(tmp_path / "inherited"))
    assert choose_run_dir(None, ROWS, tmp_path) == tmp_path / "inherited"
    assert [*tmp_path.iterdir()] == []


def test_where_no_folder_can_be_made_that_is_said_at_once(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match="run_dir: cannot be written"):
        choose_run_dir(None, ROWS, tmp_path / "runs")
    with pytest.raises(InputError, match="run_dir: cannot be written"):
        claim(Path("/proc/self/run"))


class Claimant:
    """A process that claims a folder, and a worker of its own, as a data loader has, that lives on.

    Args:
        folder: What it claims.
    """

    def __init__(self, folder):
        reads, writes = os.pipe()
        self.process = os.fork()
        if not self.process:
            self._claim(folder, writes)
        os.close(writes)
        with os.fdopen(reads) as said:
            self.worker = int(said.readline())

    def _claim(self, folder, writes):
        try:
            lock = claim(folder)
            worker = os.fork()
            if worker:
                os.write(writes, f"{worker}\n".encode())
            while lock:
                signal.pause()
        finally:
            os._exit(1)  # never back into the tests

    def kill(self):
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process = 0

    def end(self):
        self.kill()
        os.kill(self.worker, signal.SIGKILL)


@pytest.fixture(params=["locks", "no locks"])
def disk(request, monkeypatch):
    """A disk that locks files, and one that answers as some network disks do."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("disk")
def test_a_folder_is_claimed_by_one_process_until_that_is_killed(tmp_path):
    first = Claimant(tmp_path / "run")
    try:
        with pytest.raises(InputError, match="another run is writing into this folder") as caught:
            claim(tmp_path / "run")
        assert "another --run_dir" in str(caught.value)
        claim(tmp_path / "other").release()
        first.kill()
        claim(tmp_path / "run").release()  # although its worker lives
    finally:
        first.end()


@pytest.mark.usefixtures("disk")
def test_a_claim_ends_when_it_is_released_and_holds_in_its_own_process_too(tmp_path):
    lock = claim(tmp_path)
    with pytest.raises(InputError, match="another run"):
        claim(tmp_path)
    lock.release()
    claim(tmp_path).release()


@pytest.mark.parametrize(
    ("rank", "environment", "first"),
    [
        (0, {}, True),
        (1, {}, False),
        (0, {"NODE_RANK": "0"}, True),
        (0, {"NODE_RANK": "1"}, False),  # started by hand on the second machine
        (0, {"GROUP_RANK": "1"}, False),
        (8, {"GROUP_RANK": "1"}, False),
    ],
)
def test_only_the_first_process_of_a_run_claims_its_folder(monkeypatch, rank, environment, first):
    for name in ("NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run_claim.rank_zero_only, "rank", rank)
    assert is_first_process() == first


def test_a_restarted_run_waits_for_the_loading_processes_of_the_one_before(tmp_path):
    inherited = os.open(tmp_path / ".claim", os.O_RDWR | os.O_CREAT)
    fcntl.flock(inherited, fcntl.LOCK_EX)
    threading.Timer(0.3, os.close, [inherited]).start()
    claim(tmp_path, patience=20.0).release()
