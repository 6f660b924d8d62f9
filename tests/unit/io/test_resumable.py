"""Files that are fetched over connections that break."""

import hashlib

import pytest
from loopback import loopback

from gridclip.io.errors import InputError
from gridclip.io.resumable import Wanted, fetch_resumable

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server():
    with loopback() as world:
        world.files["/a.zip"] = CONTENT
        yield world


def wanted(server, **known):
    return Wanted(f"{server.address}/a.zip", **known)


def fetched(server, folder, **known):
    return fetch_resumable(wanted(server, **known), folder / "a.zip", pause=0.0).read_bytes()


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [3000, 1, 0, 5000]
    sums = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert fetched(server, tmp_path, **sums) == CONTENT
    assert server.asked == ["", "bytes=3000-", "bytes=3001-", "bytes=3001-", "bytes=8001-"]
    assert server.sent == len(CONTENT)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.cuts = [4000, *[0] * 6]
    with pytest.raises(InputError, match=r"broke off after 4000 of 10240 bytes\n.*4000 bytes"):
        fetched(server, tmp_path)
    assert fetched(server, tmp_path) == CONTENT
    assert server.asked[-1] == "bytes=4000-"
    assert server.sent == len(CONTENT)


def test_a_file_that_is_there_is_not_asked_for(server, tmp_path):
    assert fetched(server, tmp_path) == fetched(server, tmp_path)
    assert len(server.asked) == 1


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges, server.cuts = False, [4000]
    assert fetched(server, tmp_path) == CONTENT
    assert server.sent == 4000 + len(CONTENT)


@pytest.mark.parametrize("heeds", [True, False])
def test_a_new_version_is_not_joined_to_the_old_ones_beginning(server, tmp_path, heeds):
    server.heeds = heeds
    server.cuts = [4000, *[0] * 6]
    with pytest.raises(InputError):
        fetched(server, tmp_path)
    server.files["/a.zip"], server.tag = CONTENT[::-1], '"two"'
    assert fetched(server, tmp_path) == CONTENT[::-1]
    # A server that looks at the mark sends all at once; of another, the range is thrown away.
    assert server.asked[-1] == ("bytes=4000-" if heeds else "")


def test_a_range_that_begins_elsewhere_is_not_joined(server, tmp_path):
    server.cuts, server.skew = [4000], 5
    assert fetched(server, tmp_path) == CONTENT


def test_what_has_come_whole_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetched(server, tmp_path) == CONTENT  # the server says that there is no more
    (tmp_path / "a.zip").rename(tmp_path / "a.zip.part")
    assert fetched(server, tmp_path, size=len(CONTENT)) == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert server.sent == 0


def test_more_than_there_is_begins_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"x")
    assert fetched(server, tmp_path) == CONTENT


def test_another_file_is_refused_and_nothing_kept(server, tmp_path):
    with pytest.raises(InputError, match="it has 10240 bytes, not 7"):
        fetched(server, tmp_path, size=7)
    with pytest.raises(InputError, match=f"its SHA-256 is {hashlib.sha256(CONTENT).hexdigest()}"):
        fetched(server, tmp_path, sha256="0" * 64)
    assert not [*tmp_path.glob("a.zip*")]


def test_a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not(server, tmp_path):
    server.failures = [503, 500]
    assert fetched(server, tmp_path) == CONTENT
    server.asked.clear()
    with pytest.raises(InputError, match="404"):
        fetch_resumable(Wanted(f"{server.address}/b.zip"), tmp_path / "b.zip", pause=0.0)
    assert len(server.asked) == 1


def test_addresses_of_files_and_of_nobody_are_refused(tmp_path):
    with pytest.raises(InputError, match="no address of http"):
        fetch_resumable(Wanted("file:///etc/passwd"), tmp_path / "a", pause=0.0)
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch_resumable(Wanted("http://127.0.0.1:9/a"), tmp_path / "a", pause=0.0)


def test_progress_counts_the_bytes_that_are_there(server, tmp_path):
    server.cuts, seen = [4000], []
    fetch_resumable(wanted(server), tmp_path / "a", progress=seen.append, pause=0.0)
    assert seen == [4000, len(CONTENT)]
