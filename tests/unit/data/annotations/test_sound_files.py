"""What gridclip data check calls sound, training and evaluation both read, with as many boxes."""

import contextlib
import copy
import io
import json
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gridclip.data.annotations.check import check_annotations
from gridclip.data.annotations.reader import read_annotations
from gridclip.evaluation.lvis import evaluate
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field

COCO = {
    "images": [{"id": n, "width": 60, "height": 40, "file_name": f"{n}.jpg"} for n in (3, 1, 2)],
    "categories": [{"id": 4, "name": "cup"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": n, "image_id": 1 + n % 3, "category_id": 2 + n % 2 * 2, "bbox": [5, 5, 20, 10]}
        | {"area": 150.5, "iscrowd": 0}
        for n in range(1, 13)
    ],
}
LVIS = copy.deepcopy(COCO)
for _image in LVIS["images"]:
    _image |= {"neg_category_ids": [4, 2], "not_exhaustive_category_ids": [2]}
    _image["coco_url"] = f"http://x/val/{_image.pop('file_name')}"
for _category in LVIS["categories"]:
    _category |= {"frequency": "r", "synonyms": ["x"], "image_count": 3}

EVERYWHERE = ["id", "name", "area", "iscrowd", "ignore", "file_name", "coco_url", "frequency"]
EVERYWHERE += ["neg_category_ids", "not_exhaustive_category_ids"]
PLACES = [
    (form, name, row, key)
    for form in (COCO, LVIS)
    for name, rows in form.items()
    for row in (0, len(rows) - 1)
    for key in dict.fromkeys([*rows[row], *EVERYWHERE])
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
# What programs and people write in the place of the right value.
LIKELY = st.sampled_from(
    [..., None, 0, 1, 2, 3, 4, 99, -1, 0.0, 1.0, 2.0, 2.5, -0.0, 1e-9, 5e-324, 1e300, 2**53 + 1]
    + [2**63, 10**400, float("nan"), float("inf"), True, False, "", " ", "0", "1", "2", "4.0", "x"]
    + ["a.jpg", "r", "dog \ud83d", "\0", [], [2], [2.0, 4], ["2"], [99], [None], [[2]], {}]
    + [
        [0, 0, 60, 40],
        [0, 0, 61.5, 40],
        [0, 0, 0, 0],
        [1, 1, -5, 5],
        ["1", 2, 3, 4],
        [0, 0, 9e9, 1],
    ]
)


def all_kept(before, after, name, row):
    """Whether the copy has every box but those that the changed row concerns."""
    changed = before[name][row]
    # An image that takes another's id makes it doubtful whose the other's boxes are.
    doubtful = (3 - row // 2, changed.get("id"))
    concerned = {
        "annotations": lambda box: box is changed,
        "images": lambda box: box["image_id"] not in (1, 2, 3) or box["image_id"] in doubtful,
        "categories": lambda box: False,
    }[name]
    lost = len(before["annotations"]) - len(after["annotations"])
    return 0 <= lost <= sum(map(concerned, before["annotations"]))


def check_one(folder, place, value):
    """Changes one value, mends the file, and reads the copy; returns whether it is sound."""
    form, name, row, key = place
    document = copy.deepcopy(form)
    document[name][row][key] = value
    if value is ...:
        del document[name][row][key]
    file, fixed = folder / "file.json", folder / "fixed.json"
    file.write_text(json.dumps(document))
    fixed.unlink(missing_ok=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check_annotations(file, fix=fixed)
    except (SystemExit, InputError):
        return False  # something is left to a person
    trained = read_annotations(fixed)
    validated = read_annotations(fixed, rules="validation")
    evaluated = read_annotations(fixed, rules="evaluation")
    written = json.loads(fixed.read_text())
    boxes = sum(not box.get("iscrowd") for box in written["annotations"])
    assert len(trained.boxes.values) == len(validated.boxes.values) == boxes
    assert len(evaluated.scored.boxes.values) == len(validated.scored.boxes.values) == boxes
    assert all_kept(document, written, name, row)
    found = [
        {key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for box in written["annotations"]
        if not box.get("iscrowd") and not box.get("ignore")
    ]
    assert evaluate(fixed, found, protocol="standard").AP == pytest.approx(1)
    return True


RELAXED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def try_files(folder, examples):
    sound = count()

    # The quick run tries the same files each time, so that it fails for changes, not by chance.
    @settings(max_examples=examples, derandomize=examples < 100, **RELAXED)
    @given(place=st.sampled_from(PLACES), value=LIKELY | LIKELY | ANYTHING)
    def whatever_is_called_sound_is_read(place, value):
        if check_one(folder, place, value):
            next(sound)

    whatever_is_called_sound_is_read()
    return next(sound)


def test_files_with_one_changed_value_that_are_called_sound_are_read_by_both(tmp_path):
    assert try_files(tmp_path, 40) > 20


@pytest.mark.slow  # a minute
def test_six_hundred_files_that_are_called_sound_are_read_by_both(tmp_path):
    assert try_files(tmp_path, 600) > 300


@pytest.mark.parametrize("form", [COCO, LVIS])
def test_an_image_that_takes_the_id_of_another_costs_no_third_its_boxes(tmp_path, form):
    check_one(tmp_path, (form, "images", 0, "id"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("form", [COCO, LVIS])
def test_a_sound_file_is_sound(tmp_path, form):
    assert check_one(tmp_path, (form, "images", 0, "id"), 3)
