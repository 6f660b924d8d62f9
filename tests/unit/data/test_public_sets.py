"""LVIS and COCO from a server on this machine, with archives of a few bytes."""

import hashlib
import io
import json
import shutil
import zipfile

import pytest
from loopback import loopback

from gridclip.cli import main
from gridclip.data import public_sets
from gridclip.data.public_sets import SETS, Archive, get_archives, unpack
from gridclip.io.errors import InputError
from gridclip.io.resumable import Wanted


def zipped(**members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


LVIS = {
    "images": [
        {"id": n, "height": 5, "width": 5, "coco_url": f"http://a/{folder}2017/{n}.jpg"}
        | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for n, folder in ((31, "val"), (20, "train"), (11, "val"))
    ],
    "categories": [{"id": 1, "name": "cat", "frequency": "r"}],
    "annotations": [{"id": 1, "image_id": 20, "category_id": 1, "bbox": [0, 0, 2, 2]}],
}
CONTENT = {
    "/lvis_v1_val.json.zip": zipped(**{"lvis_v1_val.json": json.dumps(LVIS)}),
    "/val2017.zip": zipped(**{f"val2017/{n}.jpg": bytes([n]) * 3000 for n in range(9)}),
}


@pytest.fixture
def server():
    with loopback() as world:
        world.files |= CONTENT
        yield world


def archives(server, **changed):
    return [
        Archive(Wanted(server.address + path, len(data), hashlib.sha256(data).hexdigest()), 30_000)
        for path, data in CONTENT.items()
    ]


def test_the_layout_is_that_of_the_rows_and_a_second_call_fetches_nothing(server, tmp_path):
    server.cuts = [40]
    get_archives(archives(server), tmp_path)
    assert json.loads((tmp_path / "lvis_v1_val.json").read_text()) == LVIS
    assert (tmp_path / "val2017" / "8.jpg").read_bytes() == bytes([8]) * 3000
    assert not [*tmp_path.glob("*.zip*")]
    asked = len(server.asked)
    get_archives(archives(server), tmp_path)
    assert len(server.asked) == asked == 3


def test_archives_stay_where_they_are_asked_to(server, tmp_path):
    get_archives(archives(server), tmp_path, keep=True)
    assert (tmp_path / "val2017.zip").read_bytes() == CONTENT["/val2017.zip"]


def test_room_is_asked_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=(1 << 30) + 29_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        InputError, match=r"0\.0 GB are needed and one to spare, but 1\.1 GB are free"
    ):
        get_archives(archives(server), tmp_path)
    assert not server.asked


def test_room_counts_what_is_deleted_on_the_way(server):
    first, second = archives(server)
    first, second = (each._replace(file=each.file._replace(size=100)) for each in (first, second))
    first, second = first._replace(unpacked=10), second._replace(unpacked=400)
    assert public_sets._room([first, second], {}) == 10 + 100 + 400
    assert public_sets._room([first, second], {}, keep=True) == 100 + 10 + 100 + 400
    assert public_sets._room([second], {second.name: 60}) == 40 + 400


def test_an_archive_that_was_swapped_is_refused(server, tmp_path):
    server.files["/val2017.zip"] = CONTENT["/val2017.zip"][:-1] + b"x"
    with pytest.raises(InputError, match="its SHA-256 is"):
        get_archives(archives(server), tmp_path)
    assert (tmp_path / "lvis_v1_val.json").is_file()  # what was right stays


def test_without_a_published_sum_that_of_each_file_counts(tmp_path):
    packed = bytearray(zipped(a=b"q" * 500))
    with zipfile.ZipFile(io.BytesIO(bytes(packed))) as archive:
        packed[archive.infolist()[0].header_offset + 36] ^= 255
    (tmp_path / "a.zip").write_bytes(packed)
    with pytest.raises(InputError, match="is no whole zip file"):
        unpack(tmp_path / "a.zip", tmp_path)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b.zip").write_bytes(zipped(a=b"q" * 500)[:-30])
    with pytest.raises(InputError, match="is no whole zip file"):
        unpack(tmp_path / "b.zip", tmp_path)


def test_an_archive_that_leads_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(**{"../out.txt": b"x"}))
    with pytest.raises(InputError, match="would lie outside"):
        unpack(tmp_path / "a.zip", tmp_path / "in")
    assert not (tmp_path / "out.txt").exists()


def test_an_archive_that_unpacks_to_more_than_the_disk_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zipped(a=bytes(10**6)))
    usage = shutil.disk_usage(tmp_path)._replace(free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="no room"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_unpacking_goes_on_where_it_was_killed(tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT["/val2017.zip"])
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "1.jpg").write_bytes(b"y" * 3000)  # as long: taken for unpacked
    (tmp_path / "val2017" / "2.jpg").write_bytes(b"y" * 17)
    unpack(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "val2017" / "1.jpg").read_bytes() == b"y" * 3000
    assert (tmp_path / "val2017" / "2.jpg").read_bytes() == bytes([2]) * 3000


def test_the_command_fetches_minival_from_a_mirror_with_its_ids(
    server, tmp_path, monkeypatch, capsys
):
    known = {each.name: each for each in archives(server)}
    small = tuple(
        each._replace(file=known[each.name].file._replace(address=each.file.address))
        for each in SETS["minival"]
    )
    monkeypatch.setitem(SETS, "minival", tuple(each._replace(unpacked=30_000) for each in small))
    main(["data", "get", "minival", str(tmp_path), "--mirror", server.address])
    assert json.loads((tmp_path / "minival_ids.json").read_text()) == [11, 31]
    assert f"{tmp_path}: minival is complete" in capsys.readouterr().out


def test_the_list_names_every_address_with_its_sum(tmp_path, capsys):
    main(["data", "get", "lvis", str(tmp_path / "new"), "--list", "true"])
    printed = capsys.readouterr().out
    for archive in SETS["lvis"]:
        assert archive.file.address in printed
        assert archive.file.sha256 in printed
    assert not (tmp_path / "new").exists()
