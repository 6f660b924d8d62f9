import json
import math
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from scipy import stats

from gridclip.cli import main
from gridclip.io.errors import InputError
from gridclip.sweeps.results.paired import (
    compare,
    find_baseline,
    paired_data,
    paired_markdown,
    paired_statistics,
    require_pairs,
)
from gridclip.sweeps.results.runs import Runs, runs_of_folders
from gridclip.sweeps.storage.trial import Trial

SEED = "seed_everything"
NAMES = ("model.weights.region", "optimizer.lr", SEED)
BASE = (0.30, 0.34, 0.31, 0.36, 0.33)
BETTER = (0.33, 0.36, 0.35, 0.37, 0.36)
WORSE = (0.30, 0.31, 0.33, 0.30, 0.32)


def make_runs(tmp_path, *settings):
    """Runs of settings, each region, lr and the AP of its seeds from 0 on; lists have gaps."""
    trials = []
    for region, rate, values in settings:
        for seed, value in enumerate(values):
            trials.append(make_trial(tmp_path, len(trials) + 1, (region, rate, seed), AP=value))
    return Runs("runs", tmp_path, NAMES, tuple(trials))


def make_trial(tmp_path, number, point, *, state="finished", **figures):
    return Trial(
        number=number,
        folder=tmp_path / f"{number:03d}",
        point=dict(zip(NAMES, point, strict=True)),
        argv=(),
        run_id="",
        started=datetime(2026, 1, 1, tzinfo=UTC),
        state=state,
        rows=(),
        figures={name: value for name, value in figures.items() if value is not None},
    )


def test_mean_interval_and_p_are_those_of_a_paired_t_test():
    ours = paired_statistics(BASE, BETTER)
    theirs = stats.ttest_rel(BETTER, BASE)
    interval = theirs.confidence_interval(0.95)
    assert ours.mean == pytest.approx(0.026)  # of 0.03, 0.02, 0.04, 0.01 and 0.03
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


def test_five_hand_made_pairs_come_out_as_in_a_table_of_t():
    # Differences 1, 2, 3, 4, 5: mean 3, standard error sqrt(2.5 / 5), t of 4 degrees 2.776 at 95 %.
    found = paired_statistics((0, 0, 0, 0, 0), (1, 2, 3, 4, 5))
    assert found.mean == 3
    assert found.high - found.mean == pytest.approx(2.7764 * math.sqrt(0.5), rel=1e-4)
    assert found.low == pytest.approx(6 - found.high)


def test_swapping_both_sides_turns_the_sign_and_no_more():
    there, back = paired_statistics(BASE, WORSE), paired_statistics(WORSE, BASE)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert back.p == there.p


def test_one_pair_has_no_interval_and_equal_differences_have_no_p():
    assert paired_statistics([0.1], [0.3])[1:] == (None, None, None)
    same = paired_statistics([0.3, 0.4], [0.1, 0.2])  # −0.2 twice, but for rounding
    assert same.p is None
    assert same.mean == same.low == same.high == pytest.approx(-0.2)


def test_every_setting_is_compared_over_its_own_seeds_as_a_naive_loop_does(tmp_path):
    draw = random.Random(0)
    settings = [(r, lr, [draw.random() for _ in range(4)]) for r in (0, 0.1, 1) for lr in (1, 2)]
    runs = make_runs(tmp_path, *settings)
    shuffled = runs._replace(trials=tuple(draw.sample(runs.trials, len(runs.trials))))
    found = compare(shuffled, find_baseline("region=0,lr=2", runs, SEED), SEED, ["AP"])
    base = settings[1][2]
    means = {
        (each.setting[NAMES[0]], each.setting[NAMES[1]]): each.statistics().mean for each in found
    }
    expected = {
        (region, rate): sum(b - a for a, b in zip(base, values, strict=True)) / 4
        for region, rate, values in settings
        if (region, rate) != (0, 2)
    }
    assert means == pytest.approx(expected)
    assert {len(each.before) for each in found} == {4}


def test_a_baseline_that_names_one_setting_leaves_the_others_equal(tmp_path):
    runs = make_runs(tmp_path, (0, 1, BASE), (0, 2, WORSE), (1, 1, BETTER), (1, 2, BETTER))
    found = compare(runs, find_baseline("weights.region=0", runs, SEED), SEED, ["AP"])
    pairs = {each.setting[NAMES[1]]: (each.before, each.after) for each in found}
    assert pairs == {1: (BASE, BETTER), 2: (WORSE, BETTER)}
    assert all(each.setting[NAMES[0]] == 1 for each in found)


@pytest.mark.parametrize("text", ["region=0.0001, lr=1", "region=1e-4,lr=1.0", "1", "001"])
def test_a_baseline_is_named_by_its_values_or_by_one_of_its_trials(tmp_path, text):
    runs = make_runs(tmp_path, (0.0001, 1, BASE), (1, 1, BETTER))
    assert find_baseline(text, runs, SEED) == {NAMES[0]: 0.0001, NAMES[1]: 1}


@pytest.mark.parametrize("value", [None, True, "all", [0.1, 0.2], "a=b, c"])
def test_a_value_of_a_baseline_may_be_anything_that_a_sweep_can_hold(tmp_path, value):
    runs = make_runs(tmp_path, (value, 1, BASE), ("other", 1, BETTER))
    assert find_baseline(f"region={value}", runs, SEED) == {NAMES[0]: value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("region=7", "no trial has model.weights.region=7\n.*0, 1"),
        ("width=1", "'width' is not swept"),
        ("99", "there is no trial '99'"),
    ],
)
def test_a_baseline_that_nobody_trained_is_refused(tmp_path, text, message):
    runs = make_runs(tmp_path, (0, 1, BASE), (1, 1, BETTER))
    with pytest.raises(InputError, match=message):
        find_baseline(text, runs, SEED)


def test_seeds_without_a_partner_are_refused_by_name(tmp_path):
    runs = make_runs(
        tmp_path, (0, 1, [0.1, 0.2, None]), (1, 1, [0.1, None, 0.3]), (2, 1, [0.4, 0.5])
    )
    found = compare(runs, find_baseline("region=0", runs, SEED), SEED, ["AP"])
    assert [each.before for each in found] == [(0.1,), (0.1, 0.2)]
    with pytest.raises(InputError) as refused:
        require_pairs(found, SEED)
    assert "AP of region=1, lr=1 lacks seed 1;" in str(refused.value)
    assert "AP of region=0, lr=1 lacks seed 2" in str(refused.value)


def test_what_did_not_finish_has_no_part_in_a_comparison(tmp_path):
    runs = make_runs(tmp_path, (0, 1, BASE), (1, 1, BETTER))
    failed = make_trial(tmp_path, 99, (1, 1, 5), state="failed", AP=0.9)
    more = runs._replace(trials=(*runs.trials, failed))
    baseline = find_baseline("region=0", runs, SEED)
    assert compare(more, baseline, SEED, ["AP"]) == compare(runs, baseline, SEED, ["AP"])


def test_two_trials_of_one_setting_and_seed_are_refused(tmp_path):
    runs = make_runs(tmp_path, (0, 1, BASE), (1, 1, BETTER), (1, 1, WORSE))
    with pytest.raises(InputError, match="same settings and the same seed_everything, 0"):
        compare(runs, {NAMES[0]: 0}, SEED, ["AP"])


def test_the_table_states_both_means_the_difference_and_the_pairs(tmp_path):
    runs = make_runs(tmp_path, (0, 1, BASE), (1, 1, BETTER))
    baseline = find_baseline("region=0", runs, SEED)
    text = paired_markdown(compare(runs, baseline, SEED, ["AP"]), runs, baseline, SEED)
    lines = text.splitlines()
    assert lines[0] == (
        "| region | lr | metric | baseline | mean | difference | 95 % interval | p | pairs |"
    )
    # From scipy.stats.ttest_rel(BETTER, BASE): interval 0.0118 to 0.0402, p 0.0070.
    assert lines[2] == "| 1 | 1 | AP | 32.8 | 35.4 | +2.60 | +1.18 to +4.02 | 0.007 | 5 |"
    assert "Differences to `region=0` between trials of the same `seed_everything`" in lines[-1]


def test_a_page_gets_every_setting_as_the_baseline_of_the_pairs_that_there_are(tmp_path):
    runs = make_runs(tmp_path, (0, 1, [0.1, 0.2, 0.4]), (1, 1, [0.2, 0.3]))
    constant = [replace(trial, point=trial.point | {"c": 7}) for trial in runs.trials]
    data = paired_data(runs._replace(trials=tuple(constant)), ["AP", "APr"])
    first, second = data["baselines"]
    assert [(each["label"], len(each["rows"])) for each in (first, second)] == [
        *(("region=0, lr=1", 1), ("region=1, lr=1", 1))
    ]
    assert first["rows"] == [
        ["region=1, lr=1", "AP", "15.0", "25.0", "+10.00", "+10.00 to +10.00", "–", "2"]
    ]
    assert first["lacking"] == ["AP of region=1, lr=1 lacks seed 2"]
    assert paired_data(runs._replace(names=NAMES[:2]), ["AP"]) is None  # no seed
    twice = runs._replace(trials=(*runs.trials, runs.trials[0]))
    assert paired_data(twice, ["AP"]) is None
    alone = make_runs(tmp_path, (0, 1, [0.1]))
    assert paired_data(alone, ["AP"]) is None


# ---- run folders that no sweep made


def write_run(folder: Path, *, seed=0, metrics=None, **detector):
    folder.mkdir(parents=True)
    recipe = {
        "seed_everything": seed,
        "run_dir": None,
        "paper": {"table": folder.name},
        "trainer": {"max_steps": 9},
        "model": {"detector": detector},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def folders(tmp_path):
    made = []
    for region, values in ((0, BASE), (1, BETTER)):
        for seed, value in enumerate(values):
            metrics = {"AP": value, "AP_rare_shapes": value / 2, "APr": None, "dataset": "mini"}
            place = tmp_path / f"region{region}" / str(seed)
            made.append(write_run(place, seed=seed, metrics=metrics, region=region, width=64))
    return made


def test_plain_run_folders_are_compared_by_what_their_recipes_differ_in(folders, capsys):
    options = ["--paired", "region=0", "--metrics", "AP,AP_rare_shapes"]
    main(["sweep", "table", *map(str, folders), *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == [
        "| 1 | AP | 32.8 | 35.4 | +2.60 | +1.18 to +4.02 | 0.007 | 5 |",
        "| 1 | AP_rare_shapes | 16.4 | 17.7 | +1.30 | +0.59 to +2.01 | 0.007 | 5 |",
    ]
    main(["sweep", "table", *map(str, folders), "--over", "seed_everything", "--metrics", "AP"])
    assert "| 0 | 32.8 ± 2.4 | 5 |" in capsys.readouterr().out
    main(["sweep", "table", *map(str, folders), "--paired", str(folders[0]), "--metrics", "AP"])
    assert capsys.readouterr().out.splitlines()[2] == lines[2]


def test_a_method_is_told_apart_by_its_class_and_the_rest_is_said_below(tmp_path):
    metrics = {"AP": 0.1}
    one = write_run(tmp_path / "1", metrics=metrics, class_path="A", depth=1, width=3)
    two = write_run(tmp_path / "2", metrics=metrics, class_path="A", depth=2, width=3)
    other = write_run(tmp_path / "3", metrics=metrics, class_path="B", layers=5)
    runs = runs_of_folders([one, two, other])
    place = "model.detector."
    assert runs.names == (f"{place}class_path", f"{place}depth")
    assert [trial.point[f"{place}depth"] for trial in runs.trials] == [1, 2, "–"]
    assert set(runs.hidden) == {f"{place}width", f"{place}layers"}


def test_seeds_that_move_together_are_one_and_what_older_recipes_lack_parts_nothing(
    tmp_path, capsys
):
    folders = []
    for region, values in ((0, BASE), (1, BETTER)):
        for seed, value in enumerate(values):
            newer = {"novel_opinion": None} if seed > 1 else {}
            place = tmp_path / f"{region}-{seed}"
            settings = {"region": region, "data": {"seed": seed}, **newer}
            folders.append(write_run(place, seed=seed, metrics={"AP": value}, **settings))
    main(["sweep", "table", *map(str, folders), "--paired", "region=0", "--metrics", "AP"])
    text = capsys.readouterr().out
    assert "| 1 | AP | 32.8 | 35.4 | +2.60 | +1.18 to +4.02 | 0.007 | 5 |" in text
    assert "novel_opinion" in text.splitlines()[-1]  # said below


def test_what_is_no_finished_run_is_refused_by_name(folders, tmp_path):
    unfinished = write_run(tmp_path / "unfinished", region=0)
    with pytest.raises(InputError, match="unfinished: holds no finished run"):
        runs_of_folders([*folders, unfinished])
    with pytest.raises(SystemExit):
        main(["sweep", "table", *map(str, folders), str(tmp_path / "nothing")])


def test_runs_of_one_seed_are_no_pairs(tmp_path, capsys):
    folders = [write_run(tmp_path / str(r), metrics={"AP": 0.1}, region=r) for r in (0, 1)]
    with pytest.raises(SystemExit):
        main(["sweep", "table", *map(str, folders), "--paired", "region=0"])
    assert "the runs differ in no seed" in capsys.readouterr().err
