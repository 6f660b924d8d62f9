"""A folder to train the mini rows in, as their heads say; golden losses, compared or written."""

import os
from collections.abc import Callable

import pytest
import torch
from golden_losses import GOLDEN, Losses, as_losses, as_text, difference

from gridclip.cli import main


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The working folder, with a small data/mini and its concepts; and one thread."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("workplace"))
        patch.setenv("GRIDCLIP_CACHE", "cache")
        torch.set_num_threads(1)
        main(["data", "mini", "data/mini", "--train_images=40", "--val_images=1"])
        pairs, concepts = "data/mini/hybrid/pairs.jsonl", "data/mini/concepts.txt"
        main(["data", "concepts", pairs, f"--output={concepts}"])
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture
def check() -> Callable[[str, Losses], None]:
    """Compares a row's losses with the golden ones, or writes these anew under `make golden`."""

    def compare(row: str, losses: Losses) -> None:
        file = GOLDEN / f"{row}.txt"
        if os.environ.get("GRIDCLIP_WRITE_GOLDEN"):
            file.write_text(as_text(losses))
        assert file.exists(), f"{row} has no golden losses: write them with `make golden`"
        assert not (told := difference(row, losses, as_losses(file.read_text()))), told

    return compare
