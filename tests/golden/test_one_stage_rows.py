"""Rows of detectors of one stage learn as they did when their golden losses were written."""

import pytest
from golden_losses import GOLDEN, TRAINED, TWO_STAGE, each, fit

# Rows that start from a run: of which row, and in which folder.
STARTS = {
    "gridclip_from_regionclip": ("regionclip_pretrain", "runs/regionclip_pretrain"),
    "gridclip_kept": ("gridclip", "runs/old"),
}


@pytest.mark.parametrize("row", each([row for row in TRAINED if row not in TWO_STAGE]))
def test_a_row_of_one_stage_learns_as_it_did(row, workplace, check):
    if row in STARTS:
        start, folder = STARTS[row]
        fit(start, folder, steps=2)
    check(row, fit(row, f"runs/{row}"))


def test_no_golden_losses_are_left_of_a_row_that_is_gone():
    assert {file.stem for file in GOLDEN.iterdir()} <= set(TRAINED)
