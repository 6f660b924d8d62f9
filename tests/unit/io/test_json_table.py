"""Numbers of json lists, read as they are or refused."""

import numpy as np
import pytest

from gridclip.io.errors import InputError
from gridclip.io.json_table import JsonTable, is_path, is_text

EXACT = 2**53 + 1  # the first whole number that is no float


def table(*values):
    return JsonTable(None, "images", [{"id": value} for value in values])


@pytest.mark.field
@pytest.mark.parametrize(
    "values",
    [
        [EXACT, 2**63 - 1, -(2**63)],
        [EXACT, 2.0, -7],  # one float makes floats of a whole numpy column
        [np.int64(EXACT), np.float64(2), np.uint64(9)],
        [np.uint64(EXACT), np.uint64(3)],
        [np.int32(5), np.float32(2**24 - 1)],
        [1.0, 0.0, -1.0, 2.0**53 - 1],
        [],
    ],
)
def test_no_whole_number_is_changed_on_the_way(values):
    assert table(*values).whole_numbers("id").tolist() == [int(value) for value in values]


@pytest.mark.field
@pytest.mark.parametrize(
    "value",
    [2.0**53, np.float32(2**24), 2**63, -(2**63) - 1, np.uint64(2**63), 1.5, True, "1", None, [1]],
)
def test_what_may_stand_for_several_whole_numbers_is_refused(value):
    for others in ([], [7], [7.0, EXACT]):
        with pytest.raises(InputError, match=r"images\[0\]\.id: 1 of .* is not a whole number"):
            table(value, *others).whole_numbers("id")


@pytest.mark.field
def test_null_is_an_absent_key():
    rows = JsonTable(None, "annotations", [{}, {"area": None}, {"area": 3}])
    assert rows.numbers("area", default=0).tolist() == [0, 0, 3]
    assert rows.flags("iscrowd", "a region").tolist() == [False] * 3
    flags = JsonTable(None, "annotations", [{"on": each} for each in (0, 1, 1.0, True, None)])
    assert flags.flags("on", "it").tolist() == [False, True, True, True, False]
    with pytest.raises(InputError, match=r"whose on is not 0 or 1 \(it\)"):
        JsonTable(None, "annotations", [{"on": "0"}]).flags("on", "it")


@pytest.mark.field
def test_half_a_character_is_no_text_but_may_be_in_a_path():
    assert is_text("a 😀")
    for half in ("dog \ud83d", "\udcff.jpg"):
        assert is_path(half)
        assert not is_text(half)
