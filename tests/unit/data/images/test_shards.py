"""Tar shards: packed by us, or by other tools; tarfile is the oracle of what lies in them."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gridclip.data.images.pack import pack, pack_command
from gridclip.data.images.shards import open_shards
from gridclip.data.images.sources import open_images
from gridclip.io.errors import InputError


def jpeg(seed, height=8, width=12):
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture
def photographs(tmp_path):
    """Seven photographs of several sizes, with captions."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rows = []
    for seed in range(7):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed, 8 + seed, 30 - seed))
        rows.append({"image": f"{seed}.jpg", "captions": [f"caption {seed}", "second, naïve"]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_tar(file, members):
    """As any tool would: name and content, one after the other."""
    with tarfile.open(file, "w") as shard:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return file


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_packed_images_are_the_images_of_the_source(photographs, tmp_path):
    source = open_images(photographs)
    packed = pack(source, tmp_path / "packed", shard_bytes=7000)
    assert len(packed.files) > 2
    assert packed.fingerprint() == source.fingerprint()
    for row in (6, 0, 3):
        assert packed.image(row) == source.image(row)
        assert packed.read(row) == source.read(row)
    np.testing.assert_array_equal(packed.sizes, source.sizes)
    np.testing.assert_array_equal(packed.byte_counts, source.byte_counts)


def test_shards_have_the_layout_of_webdataset(photographs, tmp_path):
    """Any reader of tar files finds, in order, key.jpg as it was and key.json."""
    packed = pack(open_images(photographs), tmp_path / "packed", shard_bytes=7000)
    names, contents = [], []
    for file in packed.files:
        with tarfile.open(file) as shard:
            for info in shard:
                names.append(info.name)
                contents.append(shard.extractfile(info).read())
    assert names == [f"{row:09d}.{ending}" for row in range(7) for ending in ("jpg", "json")]
    assert contents[::2] == [jpeg(seed, 8 + seed, 30 - seed) for seed in range(7)]
    assert json.loads(contents[5]) == {
        "path": "2.jpg",
        "height": 10,
        "width": 28,
        "names": [],
        "captions": ["caption 2", "second, naïve"],
    }


def test_shards_keep_to_their_size_and_hold_at_least_one_image(photographs, tmp_path):
    assert len(pack(open_images(photographs), tmp_path / "tiny", shard_bytes=1).files) == 7
    limit = 9000
    packed = pack(open_images(photographs), tmp_path / "packed", shard_bytes=limit)
    # A tar file ends in up to 10 KiB of padding.
    assert all(file.stat().st_size < limit + 10240 for file in packed.files)


def test_the_same_source_gives_the_same_bytes(photographs, tmp_path):
    for name in ("once", "twice"):
        pack(open_images(photographs), tmp_path / name, shard_bytes=7000)
    assert bytes_of(tmp_path / "once") == bytes_of(tmp_path / "twice")


def test_packing_again_does_nothing_and_other_content_is_never_written_over(photographs, tmp_path):
    packed = tmp_path / "packed"
    pack_command(photographs, packed)
    before = {file.name: file.stat().st_mtime_ns for file in packed.iterdir()}
    pack_command(photographs, packed)
    assert {file.name: file.stat().st_mtime_ns for file in packed.iterdir()} == before
    with pytest.raises(InputError, match="output_dir: holds other images, or shards of another"):
        pack_command(photographs, packed, shard_size=1.0)
    (photographs / "captions.jsonl").write_text('{"image": "0.jpg", "caption": "new words"}')
    with pytest.raises(InputError, match="holds other images"):
        pack_command(photographs, packed)
    with pytest.raises(InputError, match=r"photographs: output_dir: holds something else"):
        pack_command(packed, photographs)
    assert {file.name: file.stat().st_mtime_ns for file in packed.iterdir()} == before


KILLED = """
import os, signal, sys
from pathlib import Path
import gridclip.data.images.pack as module
from gridclip.data.images.sources import open_images
written, write = [], module._add
def add(shard, name, data):
    write(shard, name, data)
    written.append(name)
    if len(written) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
module._add = add
module.pack(open_images(Path(sys.argv[1])), Path(sys.argv[2]), shard_bytes=7000)
"""


def test_a_packing_that_was_killed_goes_on_and_ends_the_same(photographs, tmp_path):
    output = tmp_path / "packed"
    arguments = [sys.executable, "-c", KILLED, str(photographs), str(output)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    assert not output.exists()
    part = tmp_path / ".packed.part"
    finished = {file: file.stat().st_mtime_ns for file in part.glob("*.tar")}
    assert finished
    pack(open_images(photographs), output, shard_bytes=7000)
    assert not part.exists()
    kept = {part / file.name: file.stat().st_mtime_ns for file in output.glob("*.tar")}
    assert finished.items() <= kept.items()
    pack(open_images(photographs), tmp_path / "whole", shard_bytes=7000)
    assert bytes_of(output) == bytes_of(tmp_path / "whole")


@pytest.mark.field
def test_a_second_packing_is_refused_while_the_first_is_at_work(photographs, tmp_path):
    images, output = open_images(photographs), tmp_path / "packed"
    read = images.read

    def read_among_others(row):
        with pytest.raises(InputError, match=r"packed: output_dir: is just being packed"):
            pack(open_images(photographs), output, shard_bytes=7000)
        return read(row)

    images.read = read_among_others
    assert len(pack(images, output, shard_bytes=7000)) == len(images)
    assert {file.name for file in tmp_path.iterdir()} == {photographs.name, "packed"}


def test_an_image_that_cannot_be_decoded_stops_the_packing_with_its_name(photographs, tmp_path):
    (photographs / "3.jpg").write_bytes(jpeg(3)[:-20])
    with pytest.raises(InputError, match=r"3.jpg: the image cannot be read"):
        pack_command(photographs, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    pack_command(photographs, tmp_path / "packed", check_pixels=False)
    assert open_shards(tmp_path / "packed").sizes[3].tolist() == [8, 12]


def foreign(folder):
    """As img2dataset writes: caption as text and in json; and an ImageNet-like class."""
    folder.mkdir()
    facts = json.dumps({"url": "http://x", "caption": "from json"}).encode()
    write_tar(
        folder / "00000.tar",
        [
            ("./a/000.jpg", jpeg(0)),
            ("./a/000.txt", b"a caption\n"),
            ("./a/001.json", facts),
            ("./a/001.seg.png", b"a mask, not looked at"),
            ("./a/001.JPG", jpeg(1, 20, 10)),
            ("./._junk", b"x"),
            ("__notes__", b"x"),
        ],
    )
    write_tar(folder / "00001.tar", [("000.cls", b"7"), ("000.jpg", jpeg(2))])
    return folder


def test_shards_of_other_tools_are_indexed_at_the_first_opening(tmp_path):
    folder = foreign(tmp_path / "foreign")
    images = open_images(folder)
    assert [images.read(row) for row in range(3)] == [jpeg(0), jpeg(1, 20, 10), jpeg(2)]
    assert images.sizes.tolist() == [[8, 12], [20, 10], [8, 12]]
    told = [images.image(row) for row in range(3)]
    assert [image.captions for image in told] == [("a caption",), ("from json",), ()]
    assert [image.names for image in told] == [(), (), ("7",)]
    paths = ["00000.tar/./a/000.jpg", "00000.tar/./a/001.JPG", "00001.tar/000.jpg"]
    assert [image.path for image in told] == paths
    assert sorted(file.name for file in folder.iterdir()) == ["00000.tar", "00001.tar"]


def test_the_second_opening_reads_no_tar_header(tmp_path, monkeypatch):
    folder = foreign(tmp_path / "foreign")
    first = open_shards(folder)
    monkeypatch.setattr("gridclip.data.images.shards.scan_shard", None)
    assert open_shards(folder).fingerprint() == first.fingerprint()
    os.utime(folder / "00001.tar", ns=(0, 0))  # it may have changed
    with pytest.raises(TypeError):
        open_shards(folder)


def test_a_range_of_shards_is_opened_by_its_pattern(tmp_path):
    folder = foreign(tmp_path / "foreign")
    assert len(open_images(folder / "{00000..00001}.tar")) == 3
    assert open_images(folder / "00001.tar").read(0) == jpeg(2)
    with pytest.raises(InputError, match=r"2 shards are missing: 00002.tar, 00003.tar"):
        open_images(folder / "{00001..00003}.tar")


def test_foreign_shards_can_be_packed(tmp_path):
    source = open_images(foreign(tmp_path / "foreign"))
    packed = pack(source, tmp_path / "packed", shard_bytes=10**6)
    assert [packed.read(row) for row in range(3)] == [source.read(row) for row in range(3)]
    assert packed.image(1) == source.image(1)


@pytest.mark.parametrize("cut", [1, 512, 1024, 1400, 2560, 5000])
def test_a_truncated_shard_is_refused_wherever_it_was_cut(tmp_path, cut):
    members = [(f"{row}.{ending}", data) for row in range(3) for ending, data in _sample(row)]
    whole = write_tar(tmp_path / "a.tar", members).read_bytes()
    end = whole.rstrip(b"\0")
    assert len(open_shards(tmp_path / "a.tar")) == 3
    (tmp_path / "a.tar").write_bytes(end[:-cut])
    with pytest.raises(InputError, match=r"a.tar(.|\n)*fetch or pack"):
        open_shards(tmp_path / "a.tar")


def _sample(row):
    return [("jpg", jpeg(row, 16, 16)), ("json", b'{"caption": "c"}')]


def test_a_shard_cut_between_two_members_does_not_pass_for_a_smaller_one(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.jpg", jpeg(0)), ("1.jpg", jpeg(1))])
    with tarfile.open(tmp_path / "a.tar") as shard:
        second = shard.getmembers()[1].offset
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:second])
    with pytest.raises(InputError, match=r"a.tar: is cut short or damaged"):
        open_shards(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.jpg", b""), ("0.jpg", b"")], r"a.tar: 0.jpg: comes twice"),
        ([("0.jpg", jpeg(0)), ("1.jpg", jpeg(1)), ("0.txt", b"x")], r"a.tar: 0: comes twice"),
        ([("0.jpg", jpeg(0)), ("1.json", b"{}")], r"a.tar: 1: a sample has no image, only json"),
        ([("0.jpg", b"no picture")], r"a.tar/0.jpg: the image cannot be read"),
        ([("0.jpg", jpeg(0)), ("0.json", b"{")], r"a.tar: 0.json: is no json"),
        ([("README", b"x")], "there is no image in the shards"),
    ],
)
def test_a_shard_of_another_layout_is_refused_with_file_and_member(tmp_path, members, message):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=message):
        open_shards(tmp_path / "a.tar")


@pytest.mark.field
def test_texts_in_a_shard_are_read_as_other_texts_are(tmp_path):
    members = [("0.jpg", jpeg(0)), ("0.txt", "\ufeffa\u2028star\r\n".encode())]
    write_tar(tmp_path / "a.tar", members)
    assert open_images(tmp_path / "a.tar").image(0).captions == ("a\u2028star",)
    write_tar(tmp_path / "b.tar", [("0.jpg", jpeg(0)), ("0.txt", "café".encode("latin-1"))])
    with pytest.raises(InputError, match=r"b\.tar: 0\.txt: cannot be read as text in utf-8"):
        open_images(tmp_path / "b.tar")


def test_a_compressed_shard_is_refused_with_advice(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as shard:
        shard.add(__file__)
    with pytest.raises(InputError, match=r"unpack .tar.gz first"):
        open_shards(tmp_path / "a.tar")


def test_a_shard_that_changed_after_packing_is_refused(photographs, tmp_path):
    packed = pack(open_images(photographs), tmp_path / "packed", shard_bytes=7000)
    packed.files[1].write_bytes(packed.files[1].read_bytes()[:-1])
    with pytest.raises(InputError, match=r"00001.tar: the shard has \d+ bytes, not"):
        open_shards(tmp_path / "packed")
    packed.files[1].unlink()
    with pytest.raises(InputError, match=r"00001.tar: the shard is missing"):
        open_shards(tmp_path / "packed")


def test_an_opened_source_pickles_small_and_reads_on_in_another_process(photographs, tmp_path):
    packed = pack(open_images(photographs), tmp_path / "packed", shard_bytes=7000)
    packed.read(0)
    pickled = pickle.dumps(packed)
    assert len(pickled) < 1500
    assert pickle.loads(pickled).read(5) == packed.read(5)


def test_more_shards_than_may_be_open_at_once_are_read(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("gridclip.data.images.shards._OPEN_AT_ONCE", 2)
    packed = pack(open_images(photographs), tmp_path / "packed", shard_bytes=1)
    before = len(list(Path("/dev/fd").iterdir()))
    for row in [0, 6, 3, 0, 5, 1, 2, 4, 6]:
        assert packed.read(row) == (photographs / f"{row}.jpg").read_bytes()
    assert len(list(Path("/dev/fd").iterdir())) <= before + 2


def test_real_photographs_go_through_shards_unchanged(test_data, tmp_path):
    folder = test_data / "flickr8k_1000"
    lines = (folder / "captions.txt").read_text().splitlines()[:31]
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    packed = tmp_path / "packed"
    pack_command(tmp_path / "captions.txt", packed, images=folder / "images")
    images = open_images(packed)
    assert len(images) == 6
    for row in range(6):
        image = images.image(row)
        assert images.read(row) == (folder / "images" / image.path).read_bytes()
        assert len(image.captions) == 5
