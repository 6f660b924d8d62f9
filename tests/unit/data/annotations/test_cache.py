"""The cache: what was read once is mapped later, and nothing but the source file is trusted."""

import json
import logging
import multiprocessing
import os
import pickle
import resource
import threading

import numpy as np
import pytest

from gridclip.data.annotations import cache as column_cache
from gridclip.data.annotations import reader as annotation_reader
from gridclip.data.annotations.reader import read_annotations
from gridclip.io.errors import InputError

NO_LISTS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
DOCUMENT = {
    "images": [
        {"id": 2, "height": 40, "width": 60, "coco_url": "http://x/val2017/2.jpg"}
        | {"neg_category_ids": [7], "not_exhaustive_category_ids": [1]},
        {"id": 1, "height": 30, "width": 30, "coco_url": "http://x/train2017/1.jpg"} | NO_LISTS,
        {"id": 3, "height": 50, "width": 20, "coco_url": "http://x/val2017/3.jpg"} | NO_LISTS,
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [10.5, 0, 20, 8]},
        {"id": 3, "image_id": 1, "category_id": 7, "bbox": [5, 5, 15, 20]},
    ],
    "categories": [
        {"id": 7, "name": "owl", "frequency": "f", "synonyms": ["owl", "hooter"]}
        | {"image_count": 120, "instance_count": 345},
        {"id": 1, "name": "cat", "frequency": "r"},
    ],
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRIDCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "annotations"


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "file.json")


def write(file, *, age=10, **lists):
    """Write the file as if it had lain there for some seconds."""
    file.write_text(json.dumps(DOCUMENT | lists))
    then = file.stat().st_mtime - age
    os.utime(file, (then, then))
    return file


@pytest.fixture
def parsed(monkeypatch):
    """Count how often a file is parsed."""
    calls = []
    parse = annotation_reader.parse_lists
    monkeypatch.setattr(
        annotation_reader,
        "parse_lists",
        lambda *given, **named: calls.append(1) or parse(*given, **named),
    )
    return calls


def columns(folder):
    return [path for path in folder.iterdir() if path.name not in ("stamps", ".lock")]


def same(ours, theirs):
    assert ours.categories == theirs.categories
    for one, other in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def arrays(annotations):
    yield from (annotations.image_ids, annotations.paths, annotations.sizes)
    for name in ("boxes", "labels", "negative", "not_exhaustive"):
        yield from getattr(annotations, name)
    for column in (annotations.scored or ())[:4]:  # the others are no columns
        yield from column


@pytest.mark.parametrize("rules", ["training", "evaluation", "validation"])
def test_a_second_reading_maps_the_columns_of_the_first(cache, file, parsed, rules):
    first, second = (read_annotations(file, rules=rules) for _ in range(2))
    assert len(parsed) == 1
    same(first, second)
    assert second.categories[1] == (7, "owl", "f", ("owl", "hooter"), 120, 345)
    assert second.categories[0] == (1, "cat", "r", (), None, None)
    for column in arrays(second):
        base = column
        while isinstance(base, np.ndarray):
            base = base.base
        assert type(base).__name__ == "mmap"


def test_the_index_is_the_contents_not_the_names(cache, file, tmp_path, parsed):
    read_annotations(file)
    copy = write(tmp_path / "copy.json")
    assert read_annotations(copy).file == copy
    assert len(parsed) == 1


def test_a_changed_file_is_read_anew(cache, file, parsed):
    read_annotations(file)
    wider = [image | {"width": 77} for image in DOCUMENT["images"]]  # as long as before
    write(file, images=wider)
    assert read_annotations(file).sizes[:, 1].tolist() == [77, 77, 77]
    assert len(parsed) == 2


def test_a_change_within_the_clocks_resolution_is_seen(cache, file):
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    read_annotations(file)
    file.write_text(file.read_text().replace('"width": 60', '"width": 61'))
    os.utime(file, ns=times)  # same size, same time of change
    assert read_annotations(file).sizes[0, 1] == 61


def test_a_file_that_changed_a_moment_ago_is_not_taken_for_settled(cache, file):
    read_annotations(file)
    assert not (cache / "stamps").exists()


def test_other_names_in_the_index_are_not_believed(cache, file):
    whole = read_annotations(file)
    (kept,) = columns(cache)
    content = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(content.replace(b"hooter", b"footer"))
    assert read_annotations(file).categories == whole.categories


def test_a_settled_file_is_not_even_read_again(cache, file, monkeypatch):
    monkeypatch.setattr(column_cache, "_SETTLED", -1)  # else its time of creation is too near
    read_annotations(file)
    monkeypatch.setattr(column_cache, "read_content", None)  # would fail if it were called
    assert len(read_annotations(file).image_ids) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: bytes([*content[:-1], 77]),
        lambda content: b"[" * 100_000,
        lambda content: b"{}",
        lambda content: None,
    ],
    ids=["cut", "head", "empty", "changed", "deep", "foreign", "gone"],
)
def test_a_spoiled_index_is_made_again(cache, file, parsed, spoil):
    whole = read_annotations(file)
    (kept,) = columns(cache)
    content = kept.read_bytes()
    kept.unlink()  # `whole` goes on mapping it
    if spoil(content) is not None:
        kept.write_bytes(spoil(content))
    for _ in range(2):
        same(read_annotations(file), whole)
        assert len(parsed) == 2  # and kept again
    assert columns(cache) == [kept]


def test_any_changed_byte_of_the_cache_is_noticed(cache, file):
    whole = read_annotations(file, rules="validation")
    (kept,) = columns(cache)
    content = kept.read_bytes()
    for place in range(0, len(content), 29):
        changed = bytearray(content)
        changed[place] ^= 1
        kept.unlink()
        kept.write_bytes(changed)
        same(read_annotations(file, rules="validation"), whole)


def test_a_folder_in_place_of_the_cache_is_no_obstacle(cache, file):
    whole = read_annotations(file)
    (kept,) = columns(cache)
    kept.unlink()
    kept.mkdir()
    (kept / "what").write_text("is this?")
    same(read_annotations(file), whole)


def test_a_spoiled_stamp_is_ignored(cache, file, monkeypatch):
    monkeypatch.setattr(column_cache, "_SETTLED", -1)
    whole = read_annotations(file)
    (stamp,) = (cache / "stamps").iterdir()
    times = json.loads(stamp.read_text())["times"]
    for text in ("", "{}", "3", json.dumps({"times": times, "digest": "../../etc"}), "[" * 99_999):
        stamp.write_text(text)
        same(read_annotations(file), whole)


def test_a_refused_file_leaves_nothing_behind(cache, file):
    for _ in range(2):
        write(file, annotations=[DOCUMENT["annotations"][0] | {"category_id": 9}])
        with pytest.raises(InputError, match="category_id"):
            read_annotations(file)
    assert columns(cache) == []


def test_a_folder_that_cannot_be_written_costs_one_warning(file, tmp_path, monkeypatch, caplog):
    (tmp_path / "no_folder").write_text("")
    monkeypatch.setenv("GRIDCLIP_CACHE", str(tmp_path / "no_folder"))
    with caplog.at_level(logging.WARNING):
        found = read_annotations(file)
    assert found.image_ids.tolist() == [2, 1, 3]
    assert len(caplog.records) == 1
    assert "GRIDCLIP_CACHE" in caplog.text


def test_a_full_disk_leaves_no_half_index(cache, file, caplog):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # no file may grow larger
    try:
        found = read_annotations(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(found.image_ids) == 3
    assert "File too large" in caplog.text
    assert columns(cache) == []


def test_readers_at_once_make_the_index_once_and_agree(cache, file, parsed):
    found, whole = [], read_annotations(write(file.with_name("other.json"), age=20))
    write(file, categories=[*DOCUMENT["categories"], {"id": 9, "name": "elk", "frequency": "c"}])
    readers = [
        threading.Thread(target=lambda: found.append(read_annotations(file))) for _ in range(8)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(parsed) == 2
    for annotations in found:
        np.testing.assert_array_equal(annotations.sizes, whole.sizes)
        assert len(annotations.categories) == 3


def test_without_locks_the_last_to_finish_wins(cache, file, parsed, monkeypatch):
    """As on a network disk: another process has put the same index there meanwhile."""
    keep = column_cache._keep

    def late(made, file):
        keep(made, file)
        return keep(made, file)

    monkeypatch.setattr(column_cache, "_keep", late)
    assert read_annotations(file).image_ids.tolist() == [2, 1, 3]
    assert len(columns(cache)) == 1


def test_annotations_travel_to_spawned_workers_as_names_of_files(cache, file):
    many = [image | {"id": number} for number, image in enumerate(DOCUMENT["images"] * 2000)]
    write(file, images=many, annotations=[])
    found = read_annotations(file)
    packed = pickle.dumps(found)
    assert found.image_ids.nbytes > 40_000
    assert len(packed) < 4000
    same(pickle.loads(packed), found)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(np.sum, (found.image_ids,)) == found.image_ids.sum()


def test_what_is_derived_from_a_column_travels_as_values(cache, file):
    found = read_annotations(file)
    part = found.image_ids[1:]
    assert pickle.loads(pickle.dumps(part)).tolist() == part.tolist()
    kept = found.labels.keep(np.array([True, False, True]))
    assert pickle.loads(pickle.dumps(kept)).values.tolist() == kept.values.tolist()


def test_minival_is_what_of_val_lies_in_val2017(cache, file):
    found = read_annotations(file, folder="val2017")
    assert found.image_ids.tolist() == [2, 3]
    assert found.paths.tolist() == ["val2017/2.jpg", "val2017/3.jpg"]
    assert [found.boxes.of(row).tolist() for row in (0, 1)] == [
        [[10.5, 0, 30.5, 8]],
        [[1, 2, 4, 6]],
    ]
    assert [found.labels.of(row).tolist() for row in (0, 1)] == [[0], [1]]
    assert [found.negative.of(row).tolist() for row in (0, 1)] == [[1], []]
    assert len(found.categories) == 2


def test_a_folder_without_images_is_refused(cache, file):
    with pytest.raises(InputError, match=r"no image lies in 'val'; .*train2017, val2017"):
        read_annotations(file, folder="val")


def test_drop_leaves_out_what_is_at_fault_and_says_so_each_time(cache, file, caplog):
    boxes = [
        *DOCUMENT["annotations"],
        {"id": 4, "image_id": 2, "category_id": 5, "bbox": [0, 0, 5, 5]},
        {"id": 5, "image_id": 2, "category_id": 1, "bbox": [0, 0, 0, 5]},
        {"id": 1, "image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 9]},  # a doubled id
        7,
    ]
    images = [*DOCUMENT["images"][:2], DOCUMENT["images"][2] | {"height": -1}]
    write(file, annotations=boxes, images=images)
    with pytest.raises(InputError):
        read_annotations(file)
    for _ in range(2):
        caplog.clear()
        found = read_annotations(file, faults="drop")
        assert found.image_ids.tolist() == [2, 1]
        assert found.boxes.of(0).tolist() == [[10.5, 0, 30.5, 8], [0, 0, 9, 9]]
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == len(set(lines)) == 6
        assert any("dropped: 1 of 7 annotations of a category" in line for line in lines)
        assert any("dropped: 1 annotations of images that were dropped" in line for line in lines)
    with pytest.raises(InputError):  # still
        read_annotations(file)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"categories": []}, "list is empty"),
        ({"categories": [DOCUMENT["categories"][0] | {"id": 0}]}, "below 1"),
        ({"images": [image | {"width": 0} for image in DOCUMENT["images"]]}, "every image"),
        ({"annotations": {}}, "not a list"),
    ],
)
def test_drop_refuses_what_leaving_out_cannot_mend(cache, file, lists, message):
    write(file, **lists)
    with pytest.raises(InputError, match=message):
        read_annotations(file, faults="drop")
