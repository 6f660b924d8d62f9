"""Weights between two trainings."""

import pytest
import torch

from gridclip.engine.finetune.blend import blended_checkpoint


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_number_lies_on_the_line_and_counters_are_the_new_ones(share):
    before = {"state_dict": {"w": torch.randn(3, 2), "n": torch.tensor(4)}, "names": ["old"]}
    after = {"state_dict": {"w": torch.randn(3, 2), "n": torch.tensor(9)}, "names": ["new"]}
    made = blended_checkpoint(before, after, share)
    for row in range(3):
        for column in range(2):
            old, new = (float(each["state_dict"]["w"][row, column]) for each in (before, after))
            expected = pytest.approx(old + share * (new - old), abs=1e-6)
            assert float(made["state_dict"]["w"][row, column]) == expected
    assert made["state_dict"]["n"] == 9
    assert made["names"] == ["new"]


def test_shifts_that_the_old_run_lacks_start_at_zero():
    after = {"state_dict": {"shift": torch.tensor([[2.0, -4.0]])}}
    made = blended_checkpoint({"state_dict": {}}, after, 0.25)["state_dict"]["shift"]
    assert made.tolist() == [[0.5, -1.0]]
