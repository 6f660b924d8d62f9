import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gridclip.io.errors import InputError
from gridclip.io.files import cache_folder, is_finished, require_writable, write_text, written_whole


@pytest.fixture
def file(tmp_path):
    return tmp_path / "made" / "file.json"


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole_and_nothing_else_with_it(file):
    write_text(file, "é")
    assert file.read_bytes() == b"\xc3\xa9"
    assert names(file.parent) == ["file.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_half_way_the_old_file_stays_and_nothing_else(file, error):
    def fail():
        with written_whole(file) as part:
            part.write_text("ne")
            raise error

    write_text(file, "old")
    with pytest.raises(error):
        fail()
    assert file.read_text() == "old"
    assert names(file.parent) == ["file.json"]


def test_until_it_is_whole_the_old_file_is_read(file):
    write_text(file, "old")
    with written_whole(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_two_writers_at_once_do_not_mix(file):
    """Both are half way at the same time; the last to end stands, whole."""
    both = threading.Barrier(2)

    def write(letter):
        with written_whole(file) as part, part.open("w") as out:
            out.write(letter * 1000)
            out.flush()
            both.wait()
            out.write(letter * 1000)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert file.read_text() in ("a" * 2000, "b" * 2000)
    assert names(file.parent) == ["file.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_others_may_read_a_file_as_the_umask_says(file, umask, mode):
    before = os.umask(umask)
    try:
        write_text(file, "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_durable_file_is_on_the_disk_before_it_takes_its_name(file, monkeypatch):
    flushed = []

    def fsync(handle):
        flushed.append((Path(f"/proc/self/fd/{handle}").readlink(), file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(file, "x")
    assert not flushed
    file.unlink()
    with written_whole(file, durable=True) as part:
        part.write_text("y")
    assert flushed == [(part, False), (file.parent, True)]


def fill(folder, error=None):
    with written_whole(folder) as part:
        part.mkdir()
        (part / "ours").touch()
        if error is not None:
            raise error


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "set"
    with pytest.raises(OSError, match="disk full"):
        fill(folder, OSError("disk full"))
    assert names(tmp_path) == []
    folder.mkdir()
    fill(folder)
    assert names(tmp_path) == ["set"]
    assert names(folder) == ["ours"]


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "theirs").touch()
    with pytest.raises(OSError, match="not empty"):
        fill(folder)
    assert names(folder) == ["theirs"]
    assert names(tmp_path) == ["set"]


def test_a_name_as_long_as_a_disk_takes_can_be_written(tmp_path):
    write_text(tmp_path / ("é" * 127), "x")
    assert names(tmp_path) == ["é" * 127]


def refused(output, **how):
    with pytest.raises(InputError) as caught:
        require_writable(output, **how)
    return str(caught.value)


def test_what_can_be_written_has_its_folder_made_and_nothing_in_it(file):
    require_writable(file)
    assert names(file.parent) == []
    file.write_text("old")
    require_writable(file)
    assert names(file.parent) == ["file.json"]
    assert file.read_text() == "old"


def test_a_path_under_a_file_is_refused_with_field_and_fix(tmp_path):
    (tmp_path / "file").touch()
    told = refused(tmp_path / "file" / "in" / "out.json", field="fix")
    assert told.startswith(f"{tmp_path}/file/in/out.json: fix: cannot be written (")
    assert "fix: give a path" in told


def test_a_folder_that_takes_no_file_is_refused():
    """Not even from root, as tests may be run."""
    assert "cannot be written" in refused(Path("/proc/self/out.json"))


def test_a_folder_is_no_file(tmp_path):
    assert "output: is a folder" in refused(tmp_path)


def test_only_where_a_new_file_is_wanted_one_that_exists_is_refused(file):
    require_writable(file, new=True)
    file.write_text("old")
    assert "exists already" in refused(file, new=True)
    assert "exists already" in refused(file.parent, new=True)


@pytest.mark.field
def test_a_device_or_a_name_that_no_disk_takes_is_no_output(tmp_path):
    assert "is no plain file" in refused(Path("/dev/null"))
    assert "File name too long" in refused(tmp_path / ("n" * 300))
    assert names(tmp_path) == []


@pytest.mark.field
@pytest.mark.parametrize("folder", ["/proc/self/set", "file/set", "n" * 300])
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="dir: cannot be written"):
        is_finished(tmp_path / folder / "record.json", {}, field="dir", other="another")


HOMELESS = """
import os, sys
from pathlib import Path
from gridclip.io.files import cache_folder
os.environ.pop("GRIDCLIP_CACHE", None)
os.environ.pop("HOME", None)
if len(sys.argv) > 1:
    os.environ["HOME"] = sys.argv[1]
if os.getuid() == 0:
    os.setuid(54321)
folder = cache_folder()
(folder / "kept").touch()
print(folder, folder == cache_folder())
"""


@pytest.mark.field
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user that has no home")
@pytest.mark.parametrize("home", [None, "/proc", "locked"])
def test_a_user_without_a_home_of_their_own_has_a_cache_until_the_end(tmp_path, home):
    if home == "locked":
        home = tmp_path / "locked"
        home.mkdir(mode=0o700)
    command = [sys.executable, "-c", HOMELESS, *([str(home)] if home else [])]
    environment = {**os.environ, "TMPDIR": "/tmp"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    folder, same = done.stdout.split()
    assert same == "True"
    assert "set GRIDCLIP_CACHE" in done.stderr
    assert not Path(folder).exists()


def test_a_cache_is_where_the_environment_says_else_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("GRIDCLIP_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("GRIDCLIP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_folder() == tmp_path / "me" / ".cache" / "gridclip"
