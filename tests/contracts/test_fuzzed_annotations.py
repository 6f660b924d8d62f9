"""Damaged annotation files: each is read right or refused with file and fix; nothing else happens.

The oracle of "read right" is a naive reading by json alone, which shares no code with ours.
"""

import copy
import faulthandler
import json
import math
import random

import pytest

from gridclip.data.annotations.check import find_problems
from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.reader import read_annotations
from gridclip.data.annotations.repair import edited, write_edited
from gridclip.io.errors import InputError

VALID = {
    "info": {"year": 2020},
    "images": [
        {"id": 5, "height": 40, "width": 60, "coco_url": "http://x/train2017/5.jpg"}
        | {"neg_category_ids": [3], "not_exhaustive_category_ids": []},
        {"id": 2, "height": 30, "width": 30, "coco_url": "http://x/train2017/2.jpg"}
        | {"neg_category_ids": [], "not_exhaustive_category_ids": [1]},
        {"id": 9, "height": 50, "width": 20, "file_name": "own/ü.jpg", "neg_category_ids": [1]}
        | {"not_exhaustive_category_ids": []},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 8, "bbox": [1, 2, 3, 4], "area": 6.5}
        | {"segmentation": [[1, 2, 4, 2, 4, 6]]},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [10.5, 0, 20, 8], "area": 9},
        {"id": 3, "image_id": 5, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        {"id": 4, "image_id": 9, "category_id": 1, "bbox": [5, 5, 15, 45], "iscrowd": 0},
    ],
    "categories": [
        {"id": 8, "name": "owl", "frequency": "f", "synonyms": ["owl"], "image_count": 3},
        {"id": 1, "name": "cat", "frequency": "c"},
        {"id": 3, "name": "dog", "frequency": "r"},
    ],
    "category_groups": {"pets": [3, 1], "night": ["owl"], "both": {"ids": [8, 3], "names": []}},
}

STRANGE = [
    *(None, True, False, 0, -1, 1, 1.0, 3.7, "", " ", "1", "r", "\ud800", "a\0b", [], {}, [[]]),
    *([1], [9], [None], {"id": 1}, [0, 0, 1, 1], [0, 0, -1, 1], [1e308] * 4, [1, 2, 3], "x" * 300),
    *(2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30, 10**4000),
    *(math.nan, math.inf, -math.inf, 1e300, -1e300, 5e-324, [math.nan] * 4, [-3, 0, 20, 20]),
]
TOKENS = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"00", b"null", b"true", b"[]", b"{}"]
TOKENS += [b"\xff", b"\x00", b"\xed\xa0\x80", b'"', b",", b"}", b"]", b"[" * 3000, b'{"a":' * 3000]
# What the command tells of files that are read all the same.
TOLD = ("that no image verifies", "of area 0, which AP leaves out", "that are crowds, which only")
ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp037"]


def damaged(seed):
    """One file, as bytes: a function of the seed alone."""
    draw = random.Random(seed)
    document = copy.deepcopy(VALID)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 4))):
        draw.choice((change_value, drop_key, change_row, change_list, change_group))(draw, document)
    text = json.dumps(document, ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.1:
        text = twice(draw, text)
    if draw.random() < 0.15:
        return text.encode(draw.choice(ENCODINGS), "replace")
    content = text.encode("utf-8", "surrogatepass")
    for _ in range(draw.choice((0, 0, 1, 2))):
        content = draw.choice((cut, overwritten, inserted, token))(draw, content)
    return content


def some_record(draw, document):
    lists = [rows for rows in document.values() if isinstance(rows, list) and rows]
    rows = [row for row in draw.choice(lists) if isinstance(row, dict) and row] if lists else []
    return draw.choice(rows) if rows else document


def change_value(draw, document):
    record = some_record(draw, document)
    record[draw.choice(sorted(record))] = draw.choice(STRANGE)


def drop_key(draw, document):
    record = some_record(draw, document)
    del record[draw.choice(sorted(record))]


def change_row(draw, document):
    rows = document.get(draw.choice(("images", "annotations", "categories")))
    if isinstance(rows, list) and rows:
        place = draw.randrange(len(rows))
        change = draw.choice(("double", "drop", "strange"))
        if change == "double":
            rows.insert(place, copy.deepcopy(rows[place]))
        elif change == "drop":
            del rows[place]
        else:
            rows[place] = draw.choice(STRANGE)


def change_list(draw, document):
    document[draw.choice(("images", "annotations", "categories"))] = draw.choice(STRANGE)


def change_group(draw, document):
    groups = document.get("category_groups")
    if not isinstance(groups, dict) or not groups:
        return
    name = draw.choice(sorted(groups))
    change = draw.choice(("value", "member", "name", "all"))
    if change == "all":
        document["category_groups"] = draw.choice((*STRANGE, {}, {"": []}))
    elif change == "name":
        groups[draw.choice(("", " ", "a.b", "\ud800", "x" * 300, "1"))] = groups.pop(name)
    elif change == "member" and isinstance(groups[name], list):
        groups[name].append(draw.choice(STRANGE))
    else:
        groups[name] = draw.choice(STRANGE)


def twice(draw, text):
    """Give a key twice."""
    key, value = draw.choice(("id", "bbox", "images", "name")), json.dumps(draw.choice(STRANGE))
    return text.replace(f'"{key}":', f'"{key}": {value}, "{key}":', 1)


def cut(draw, content):
    return content[: draw.randrange(len(content) + 1)]


def overwritten(draw, content):
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.randint(1, 4)) + content[place + 1 :]


def inserted(draw, content):
    place = draw.randrange(len(content) + 1)
    return content[:place] + content[draw.randrange(len(content) + 1) :]


def token(draw, content):
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(TOKENS) + content[place:]


def naive(content):
    """What a file that is accepted says: by image id, its (name, box) pairs and absent names."""
    document = json.loads(content)
    names = {row["id"]: row["name"] for row in document["categories"]}
    found = {
        row["id"]: (
            row["height"],
            row["width"],
            sorted(names[number] for number in row.get("neg_category_ids") or []),
            [],
        )
        for row in document["images"]
    }
    for row in document["annotations"]:
        if not row.get("iscrowd"):
            height, width, _, boxes = found[row["image_id"]]
            left, top, across, down = row["bbox"]
            right, bottom = min(left + across, width), min(top + down, height)
            box = (max(left, 0), max(top, 0), right, bottom)
            boxes.append((names[row["category_id"]], *map(float, box)))
    return found


def naive_groups(document):
    """The names of each group's categories."""
    names = {row["id"]: row["name"] for row in document["categories"]}
    return {
        group: {names.get(each, each) for each in (own["ids"] if isinstance(own, dict) else own)}
        for group, own in document.get("category_groups", {}).items()
    }


def check_same(found, content):
    names = [category.name for category in found.categories]
    groups = {group: {names[row] for row in rows} for group, rows in found.groups.items()}
    assert groups == naive_groups(json.loads(content))
    expected = naive(content)
    assert found.image_ids.tolist() == list(expected)
    for row, (height, width, negative, boxes) in enumerate(expected.values()):
        assert found.sizes[row].tolist() == [height, width]
        assert sorted(names[label] for label in found.negative.of(row)) == negative
        ours = zip(found.labels.of(row).tolist(), found.boxes.of(row).tolist(), strict=True)
        ours = sorted((names[label], *box) for label, box in ours)
        for one, other in zip(ours, sorted(boxes), strict=True):
            assert one[0] == other[0]
            assert one[1:] == pytest.approx(other[1:], rel=1e-5, abs=1e-5)


def check_refused(error, file):
    assert str(file) in str(error)
    assert "\n  fix: " in str(error)


def check_mended(file, content, found):
    """The copy that is written of a file without other faults is sound."""
    left = [one.fault for one in found.findings if one.outcome == "left"]
    images = edited(found.sound, found.edits).images
    if images and all("verifies" in fault.rule for fault in left):
        output = file.with_name("mended.json")
        write_edited(content, found.edits, output)
        assert len(read_annotations(output, rules="validation").image_ids) == len(images)
        output.unlink()


def check_dropped(file):
    try:
        kept = read_annotations(file, faults="drop")
    except InputError as error:
        check_refused(error, file)
    else:
        assert set(kept.labels.values.tolist()) <= set(range(len(kept.categories)))


def check_one(file, content):
    """Read it twice, list its faults, drop them, mend them; tell whether it was accepted."""
    file.write_bytes(content)
    accepted = False
    for _ in range(2):  # the second time what the index holds, if anything
        try:
            found = read_annotations(file, rules="validation")
        except InputError as error:
            check_refused(error, file)
            assert not accepted
        else:
            accepted = True
            check_same(found, content)
    if not accepted:
        check_dropped(file)
    try:
        found = find_problems(file, parse_lists(file, content))
    except InputError as error:
        check_refused(error, file)
        assert not accepted
    else:
        rules = {finding.fault.rule for finding in found.findings}
        assert accepted == all(rule.startswith(TOLD) for rule in rules)
        if not accepted:
            check_mended(file, content, found)
    assert file.read_bytes() == content
    return accepted


@pytest.mark.parametrize(
    ("first", "count"), [(0, 300), pytest.param(300, 30_000, marks=pytest.mark.slow)]
)
def test_damaged_files_are_read_right_or_refused_with_a_fix(tmp_path, monkeypatch, first, count):
    monkeypatch.setenv("GRIDCLIP_CACHE", str(tmp_path / "cache"))
    file, accepted = tmp_path / "file.json", 0
    for seed in range(first, first + count):
        faulthandler.dump_traceback_later(60, exit=True)  # a hang
        try:
            accepted += check_one(file, damaged(seed))
        except Exception as error:
            error.add_note(f"damaged({seed})")
            raise
    faulthandler.cancel_dump_traceback_later()
    assert 0.05 < accepted / count < 0.6  # both ways are tried
    sound = json.dumps(VALID).encode()
    file.write_bytes(sound)
    check_same(read_annotations(file), sound)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "file.json"]
