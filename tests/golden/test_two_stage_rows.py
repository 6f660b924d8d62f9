"""Rows of detectors of two stages learn as they did when their golden losses were written."""

import pytest
from golden_losses import TWO_STAGE, each, fit

from gridclip.cli import main


@pytest.fixture(scope="module")
def prepared(workplace):
    """Embedded proposals of a short run, as the heads of ViLD's rows say."""
    mini = "data/mini"
    fit("vild_text", "runs/proposing", steps=2)
    source, proposals = f"{mini}/train.json", f"{mini}/vild_proposals.safetensors"
    regions = f"--output={mini}/vild_regions.safetensors"
    main(["propose", source, "--run=runs/proposing", f"--output={proposals}", "--limit=8"])
    made = [proposals, f"--source={source}", regions, "--limit=8", "--view=pasted"]
    main(["clip", "embed-proposals", *made])


@pytest.mark.parametrize("row", each(TWO_STAGE))
def test_a_row_of_two_stages_learns_as_it_did(row, prepared, check):
    check(row, fit(row, f"runs/{row}"))
