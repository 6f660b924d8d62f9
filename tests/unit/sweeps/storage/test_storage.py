"""What the runners of a sweep rely on, of every storage alike."""

import json
import multiprocessing
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url

from gridclip.io.errors import InputError
from gridclip.sweeps.running.claims import Heartbeats, is_dead, this_runner
from gridclip.sweeps.running.start import find_sweep, note_address, open_storage
from gridclip.sweeps.storage.database import patience, without_password
from gridclip.sweeps.storage.journal import Journal
from gridclip.sweeps.storage.protocol import StorageError, SweepInfo
from gridclip.sweeps.storage.trial import Trial

KINDS = ("journal", "sqlite")
START = datetime(2026, 1, 1, tzinfo=UTC)
INFO = SweepInfo(id="s", uid="u", text="method: grid", seed=1, cap=None, lease=9.0, created="2026")


def make_trial(number=1, *, attempt=1, runner="a", state="running", folder=Path("s"), rows=()):
    return Trial(
        number=number,
        folder=folder / "trials" / f"{number:03d}",
        point={"x": number, "name": "é"},
        argv=("run",),
        run_id="r",
        started=START,
        state=state,
        attempt=attempt,
        runner=runner,
        rows=tuple(rows),
        figures={},
    )


def open_kind(kind: str, folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    return open_storage(folder, None if kind == "journal" else f"sqlite:///{folder}/sweeps.db")


@pytest.fixture(params=KINDS)
def storage(request, tmp_path):
    """Opens the same storage as often as it is called."""
    return lambda: open_kind(request.param, tmp_path / "s")


def test_a_sweep_begins_once_and_is_known_to_all(storage):
    assert storage().info() is None
    storage().create(INFO)
    assert storage().info() == INFO
    with pytest.raises(InputError, match="already"):
        storage().create(INFO)


def test_a_number_is_taken_once(storage):
    one, two = storage(), storage()
    assert one.claim(make_trial(runner="a"))
    assert not two.claim(make_trial(runner="b"))
    assert not one.claim(make_trial(runner="a"))
    assert [trial.runner for trial in two.read().trials] == ["a"]
    assert not two.claim(make_trial(2, attempt=2))  # nobody made a first attempt


def test_a_trial_comes_back_as_it_was_recorded(storage):
    one, two = storage(), storage()
    folder = two.read() and one.claim(make_trial()) and two.read().trials[0].folder.parents[1]
    trial = replace(
        make_trial(folder=folder),
        state="failed",
        reason="exit code 3",
        exit_code=3,
        ended=START,
        kills=1,
        host="here",
        steps=300,
        rows=({"step": 1, "val/AP": 0.25}, {"step": 2, "val/AP": 1e-9}),
        figures={"AP": 0.5},
    )
    assert one.update(trial)
    assert two.read().trials == (trial,)
    assert storage().read().trials == (trial,)


def test_only_its_runner_tells_of_a_trial_and_only_until_it_ended(storage):
    one, two = storage(), storage()
    one.claim(make_trial(runner="a"))
    assert not two.update(make_trial(runner="b"))
    assert not one.update(make_trial(runner="a", attempt=2))
    assert one.update(make_trial(runner="a", state="finished"))
    assert not one.update(make_trial(runner="a", state="failed"))
    assert [trial.state for trial in two.read().trials] == ["finished"]


@pytest.mark.parametrize(
    ("state", "again"),
    [
        ("running", True),
        ("interrupted", True),
        ("stopped", True),
        ("finished", False),
        ("failed", False),
        ("pruned", False),
    ],
)
def test_a_number_is_taken_again_unless_it_came_to_an_end(storage, state, again):
    one, two = storage(), storage()
    one.claim(make_trial(runner="a"))
    if state != "running":
        one.update(make_trial(runner="a", state=state))
    assert two.claim(make_trial(runner="b", attempt=2)) is again
    assert not two.claim(make_trial(runner="c", attempt=2))
    # Who lost it cannot tell of it any more.
    assert not one.update(make_trial(runner="a", state="finished"))


def test_validations_add_up_and_begin_anew_with_an_attempt(storage):
    one, two = storage(), storage()
    one.claim(make_trial())
    rows = [{"step": step} for step in range(5)]
    for many in (2, 5):
        one.update(make_trial(rows=rows[:many]))
        assert list(two.read().trials[0].history()) == rows[:many]
    two.claim(make_trial(attempt=2, runner="b"))
    two.update(make_trial(attempt=2, runner="b", rows=rows[:1]))
    assert list(one.read().trials[0].history()) == rows[:1]


def test_runners_are_heard_and_asked_to_stop(storage):
    one, two = storage(), storage()
    first, second = (replace(this_runner(), seen=f"2026-{day}") for day in (1, 2))
    one.join(first)
    two.join(second)
    assert one.read().runners == (first, second)
    one.beat(replace(first, seen="later", left=True))
    assert [runner.id for runner in two.ask_to_stop()] == [second.id]
    gone, asked = storage().read().runners
    assert (gone.seen, gone.left, gone.asked) == ("later", True, False)
    assert (asked.seen, asked.left, asked.asked) == ("2026-2", False, True)
    two.beat(replace(second, seen="on"))  # which does not take back the request
    one.join(third := this_runner())
    asked = {runner.id: runner.asked for runner in two.read().runners}
    assert asked == {first.id: False, second.id: True, third.id: False}


def race(kind: str, folder: Path, name: str, start, queue) -> None:
    """Take and finish as many numbers as one can get."""
    storage = open_kind(kind, folder)
    start.wait()
    won = []
    for number in range(1, 41):
        if storage.claim(make_trial(number, runner=name)):
            won.append(number)
            storage.update(make_trial(number, runner=name, state="finished"))
    queue.put((name, won))


@pytest.mark.parametrize("kind", KINDS)
def test_of_processes_that_race_for_a_number_one_wins(kind, tmp_path):
    open_kind(kind, tmp_path / "s").create(INFO)
    context = multiprocessing.get_context("fork")
    start, queue = context.Event(), context.Queue()
    names = ("a", "b", "c")
    racers = [
        context.Process(target=race, args=(kind, tmp_path / "s", name, start, queue))
        for name in names
    ]
    for racer in racers:
        racer.start()
    start.set()
    won = dict(queue.get(timeout=60) for _ in names)
    for racer in racers:
        racer.join()
    assert sorted(number for numbers in won.values() for number in numbers) == list(range(1, 41))
    board = open_kind(kind, tmp_path / "s").read()
    assert {trial.number: trial.runner for trial in board.trials} == {
        number: name for name, numbers in won.items() for number in numbers
    }
    assert {trial.state for trial in board.trials} == {"finished"}


ACTS = st.tuples(
    st.sampled_from(["claim", "update"]),
    st.integers(1, 2),  # number
    st.integers(1, 3),  # attempt
    st.sampled_from("ab"),  # runner
    st.sampled_from(["running", "finished", "interrupted", "pruned"]),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(acts=st.lists(ACTS, max_size=12))
def test_any_order_of_acts_ends_as_in_a_dictionary(kind, acts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("acts") / "s"
    storages = {name: open_kind(kind, folder) for name in "ab"}
    known: dict[int, tuple[int, str, str]] = {}  # attempt, runner, state
    for act, number, attempt, runner, state in acts:
        before = known.get(number)
        trial = make_trial(number, attempt=attempt, runner=runner, state=state)
        if act == "claim":
            trial = replace(trial, state="running")
            allowed = (
                attempt == 1
                if before is None
                else attempt == before[0] + 1 and before[2] in ("running", "interrupted")
            )
            assert storages[runner].claim(trial) is allowed
        else:
            allowed = before == (attempt, runner, "running")
            assert storages[runner].update(trial) is allowed
        if allowed:
            known[number] = (attempt, runner, trial.state)
    for storage in storages.values():
        trials = storage.read().trials
        assert {t.number: (t.attempt, t.runner, t.state) for t in trials} == known


def test_a_line_cut_short_counts_for_nothing_and_spoils_no_other(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.create(INFO)
    journal.claim(make_trial(1))
    whole = journal.file.read_bytes()
    line = whole.splitlines()[-1].replace(b'"number": 1', b'"number": 2')
    for cut in (1, 20, len(line) - 1):
        journal.file.write_bytes(whole + line[:cut])
        late = Journal(journal.file)
        assert [trial.number for trial in late.read().trials] == [1]
        assert late.claim(make_trial(3))
        assert [trial.number for trial in late.read().trials] == [1, 3]
        assert [trial.number for trial in Journal(journal.file).read().trials] == [1, 3]


def test_a_journal_grows_by_what_is_new(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.claim(make_trial())
    rows = [{"step": step, "val/AP": 0.5} for step in range(200)]
    for many in range(1, 201):
        journal.update(make_trial(rows=rows[:many]))
    assert Journal(journal.file).read().trials[0].rows == tuple(rows)
    assert max(map(len, journal.file.read_bytes().splitlines())) < 600


def test_a_disk_that_refuses_is_a_storage_that_does_not_answer(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(StorageError):
        Journal(tmp_path / "journal.jsonl").read()


def test_a_password_is_not_left_in_the_folder(tmp_path):
    note_address(tmp_path, "postgresql://me:secret@host/db")
    assert (tmp_path / "storage.txt").read_text() == "postgresql+psycopg://me@host/db\n"


@pytest.mark.parametrize(
    "address",
    ["postgresql://127.0.0.1:1/none", "nonsense", "sqlite:////no/x"]
    + ["postgresql://me@host:port/db", "mysql://me@host/db"],
)
def test_a_database_that_cannot_be_reached_is_refused(tmp_path, address):
    with pytest.raises(InputError, match="--storage"):
        open_storage(tmp_path, address)


def test_a_sweep_is_found_by_name_folder_or_as_the_latest(tmp_path):
    for age, name in enumerate(("new", "old")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sweep.yaml").write_text("")
        os.utime(folder / "sweep.yaml", (1000 - age, 1000 - age))
        Journal(folder / "journal.jsonl").create(replace(INFO, id=name))
    for name, expected in (("old", "old"), (str(tmp_path / "old"), "old"), ("latest", "new")):
        folder, storage, info = find_sweep(name, tmp_path)
        assert storage.info().id == info.id == folder.name == expected
    with pytest.raises(InputError, match="name one of: old, new"):
        find_sweep("older", tmp_path, None)


def test_a_runner_is_gone_once_its_sign_does_not_change_for_a_lease():
    clock = [0.0]
    heartbeats = Heartbeats(12.0, clock=lambda: clock[0])
    far = replace(this_runner(), machine="another", pid=1)
    for clock[0] in (0.0, 3.0, 6.0, 9.0, 11.9):
        assert heartbeats.gone([far]) == set()
    clock[0] = 12.0
    assert heartbeats.gone([far]) == {far.id}
    assert heartbeats.gone([replace(far, seen="again")]) == set()
    assert heartbeats.gone([replace(far, left=True)]) == {far.id}


def test_a_time_in_which_nobody_could_look_counts_for_nothing():
    time = 0.0
    heartbeats = Heartbeats(12.0, clock=lambda: time)
    far = replace(this_runner(), machine="another", pid=1)
    heartbeats.gone([far])
    time = 600.0  # the database was away, or this machine asleep
    assert heartbeats.gone([far]) == set()


def test_a_dead_runner_of_this_machine_is_known_at_once():
    me = this_runner()
    assert not is_dead(me)
    assert is_dead(replace(me, born=me.born - 5))  # its number has gone to another process
    child = os.fork()
    if child == 0:
        os._exit(0)
    dead = replace(me, pid=child, born=me.born)
    assert is_dead(dead)
    os.waitpid(child, 0)
    assert is_dead(dead)
    assert not is_dead(replace(dead, machine="another"))


def test_a_runner_lives_on_when_the_clock_is_set(monkeypatch):
    me = this_runner()
    start = psutil.boot_time()
    for moved in (5.0, -3600.0, 86_400.0):
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda moved=moved: start + moved)
        assert not is_dead(me)
        assert this_runner().born == me.born


def test_a_record_of_a_newer_version_is_refused(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.claim(make_trial())
    line = json.loads(journal.file.read_text())
    line["trial"]["state"] = "dreaming"
    journal.file.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="'dreaming' is no state"):
        Journal(journal.file).read()


@pytest.mark.parametrize(
    "address", ["postgresql://u:hush@h/d", "postgresql://u@h/d?password=hush&sslpassword=hush"]
)
def test_no_password_of_an_address_is_kept(address):
    assert "hush" not in without_password(address)
    assert "u@h/d" in without_password(address)


def test_a_server_is_waited_for_as_its_address_says_and_else_not_for_ever():
    url = make_url("postgresql+psycopg://me@one/base?connect_timeout=99&host=two&host=three")
    assert "connect_timeout" not in patience(url)  # the driver has it from the address
    assert patience(url).keys() >= {"tcp_user_timeout", "keepalives_idle"}
    assert not patience(url).keys() & {"host"}
