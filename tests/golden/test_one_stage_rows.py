"""Rows of detectors of one stage learn as they did when their golden losses were written."""

import pytest
from golden_losses import GOLDEN, TRAINED, TWO_STAGE, each, fit

PRETRAINING = "regionclip_pretrain"


@pytest.fixture(scope="module")
def pretrained(workplace):
    """A run of a pre-training, from which gridclip_from_regionclip starts."""
    fit(PRETRAINING, f"runs/{PRETRAINING}", steps=2)


@pytest.mark.parametrize("row", each([row for row in TRAINED if row not in TWO_STAGE]))
def test_a_row_of_one_stage_learns_as_it_did(row, workplace, request, check):
    if row == "gridclip_from_regionclip":
        request.getfixturevalue("pretrained")
    check(row, fit(row, f"runs/{row}"))


def test_no_golden_losses_are_left_of_a_row_that_is_gone():
    assert {file.stem for file in GOLDEN.iterdir()} <= set(TRAINED)
