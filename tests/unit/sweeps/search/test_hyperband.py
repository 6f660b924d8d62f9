import json
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path

import pytest

from gridclip.sweeps.search.search import bands, stragglers
from gridclip.sweeps.spec.sweep_file import Hyperband, Metric
from gridclip.sweeps.storage.trial import Trial

LOSS = Metric(name="loss")


def trial(folder: Path, name: str, values, state: str = "running") -> Trial:
    """A trial that logged values of the loss, and other rows between them."""
    rows = [row for value in values for row in ({"other": 1.0}, {"loss": value})]
    (folder / name).mkdir()
    (folder / name / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Trial(
        number=ord(name),
        folder=folder / name,
        point={},
        argv=(),
        run_id=name,
        started=datetime.now(UTC),
        state=state,
    )


def stopped(rule: Hyperband, trials, metric: Metric = LOSS) -> str:
    return "".join(trial.folder.name for trial in stragglers(rule, metric, trials))


def test_bands_grow_from_min_iter_and_end():
    assert list(islice(bands(Hyperband(min_iter=2, eta=3)), 4)) == [2, 6, 18, 54]
    assert list(islice(bands(Hyperband(min_iter=3, eta=1.5)), 4)) == [3, 4, 6, 10]
    assert len(list(bands(Hyperband(min_iter=1, eta=3)))) == 100


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Hyperband(max_iter=27, brackets=2, eta=3), [3, 9]),
        (Hyperband(max_iter=27, brackets=9, eta=3), [1, 3, 9]),
        (Hyperband(max_iter=5, brackets=2, eta=2), [1, 2]),
        (Hyperband(max_iter=27, brackets=1, min_iter=1, eta=3), [9]),
    ],
)
def test_bands_shrink_from_max_iter_which_is_none_itself(rule, expected):
    assert list(bands(rule)) == expected


def test_wandbs_own_example_stops_what_wandb_says(tmp_path):
    trials = [
        trial(tmp_path, "a", [10, 9], state="finished"),
        trial(tmp_path, "b", [10, 10]),
        trial(tmp_path, "c", [10, 8, 8]),
        trial(tmp_path, "d", [10, 7, 7]),
        trial(tmp_path, "e", [10, 6, 6], state="finished"),
    ]
    assert stopped(Hyperband(max_iter=5, brackets=2, eta=2), trials) == "b"
    # c has just the threshold of band 2, and only worse ones are stopped.


def test_only_the_best_share_passes_a_band(tmp_path):
    trials = [trial(tmp_path, name, [value]) for value, name in enumerate("abcdef")]
    assert stopped(Hyperband(min_iter=1, eta=3), trials) == "def"  # the threshold is the third
    assert stopped(Hyperband(min_iter=1, eta=2), trials) == "ef"
    assert stopped(Hyperband(min_iter=2), trials) == ""


def test_more_is_better_where_the_file_says_so(tmp_path):
    trials = [trial(tmp_path, name, [value]) for value, name in enumerate("abcdef")]
    most = Metric(name="loss", goal="maximize")
    assert stopped(Hyperband(min_iter=1, eta=3), trials, most) == "abc"


def test_strict_looks_at_the_band_and_otherwise_the_best_so_far_counts(tmp_path):
    trials = [
        trial(tmp_path, "a", [1, 9, 9]),  # was good once
        trial(tmp_path, "b", [5, 9, 2]),  # is good now, after the band
        trial(tmp_path, "c", [5, 1, 1]),
    ]
    assert stopped(Hyperband(min_iter=2, eta=4, strict=True), trials) == "ab"
    assert stopped(Hyperband(min_iter=2, eta=4, strict=False), trials) == "b"


def test_the_last_band_reached_decides(tmp_path):
    trials = [
        trial(tmp_path, "a", [9, 1]),  # bad at the first band, good at the second
        trial(tmp_path, "b", [1, 5, 5]),
        trial(tmp_path, "c", [1], state="finished"),
    ]
    assert stopped(Hyperband(min_iter=1, eta=2), trials) == ""
    assert stopped(Hyperband(min_iter=1, eta=2.5), trials) == "b"


@pytest.mark.parametrize("state", ["finished", "failed", "stopped", "pruned", "interrupted"])
def test_trials_that_ended_are_not_stopped_but_set_the_threshold(tmp_path, state):
    ended = [trial(tmp_path, name, [1], state=state) for name in "abc"]
    assert stopped(Hyperband(min_iter=1), [*ended, trial(tmp_path, "d", [2])]) == "d"


def test_a_trial_without_the_metric_is_left_alone(tmp_path):
    trials = [trial(tmp_path, "a", []), trial(tmp_path, "b", [1]), trial(tmp_path, "c", [2])]
    assert stopped(Hyperband(min_iter=1, eta=4), trials) == "c"


def test_a_huge_eta_is_no_trouble():
    rule = Hyperband(min_iter=1, eta=1e200)
    assert list(takewhile(lambda band: band < 10, bands(rule))) == [1]
