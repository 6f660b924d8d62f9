from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from gridclip.io.errors import InputError
from gridclip.sweeps.results.over_seeds import groups, markdown, put_into, row, shown
from gridclip.sweeps.results.runs import runs_of_sweep
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.trial import Trial

VALUES = {0.0: (0.1, 0.2, 0.6), 0.5: (0.3, 0.5)}


@pytest.fixture
def spec(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "method: grid\nprogram: p\nmetric: {name: val/APr, goal: maximize}\nparameters:\n"
        "  {model.weight: {values: [0.0, 0.5]}, seed_everything: {values: [0, 1, 2]}}\n"
    )
    return read_sweep(file)


@pytest.fixture
def trials(tmp_path):
    made = []
    for weight, values in VALUES.items():
        for seed, value in enumerate(values):
            made.append(
                Trial(
                    number=len(made) + 1,
                    folder=tmp_path,
                    point={"model.weight": weight, "seed_everything": seed},
                    argv=(),
                    run_id="",
                    started=datetime.now(UTC),
                    state="finished",
                    rows=(),
                    figures={"APr": value, "AP": 0.5},
                )
            )
    return made


def test_trials_that_differ_in_the_seed_only_are_one_row(trials):
    found = groups(trials, "seed_everything")
    assert [dict(group.point) for group in found] == [{"model.weight": w} for w in VALUES]
    for group, values in zip(found, VALUES.values(), strict=True):
        spread = group.spread("val/APr")
        assert spread.mean == pytest.approx(np.mean(values))
        assert spread.deviation == pytest.approx(np.std(values, ddof=1))
    assert len(groups(trials, None)) == len(trials)


def test_the_page_says_mean_deviation_and_count(trials, spec):
    runs = runs_of_sweep(spec, trials)
    lines = markdown(runs, "seed_everything", runs.measured(None)).splitlines()
    assert lines[0] == "| weight | AP | APr | APc | APf | trials |"
    assert lines[2] == "| 0 | 50.0 ± 0.0 | 30.0 ± 26.5 | – | – | 3 |"
    assert lines[3].startswith("| **0.5** | **50.0 ± 0.0** | **40.0 ± 14.1** |")
    assert lines[-1] == (
        "AP, APr, APc and APf in percent; mean ± standard deviation over `seed_everything`."
    )


def test_what_did_not_finish_is_no_part_of_a_mean_and_named(trials, spec):
    trials[2] = replace(trials[2], state="failed")
    runs = runs_of_sweep(spec, trials)
    text = markdown(runs, "seed_everything", runs.measured(None))
    assert "| 0 | 50.0 ± 0.0 | 15.0 ± 7.1 | – | – | 2 |" in text
    assert "failed, so not in the table: trial 3" in text


def test_one_trial_has_no_deviation(trials):
    (group,) = groups(trials[:1], "seed_everything")
    assert shown("APr", group.spread("APr")) == "10.0"
    assert shown("loss", group.spread("loss")) == "–"


@pytest.mark.parametrize("name", ["weight", "model.weight"])
def test_a_parameter_goes_by_any_end_of_its_name_that_no_other_has(spec, name):
    runs = runs_of_sweep(spec, [])
    assert runs.full_name(name, "--over") == "model.weight"
    more = runs._replace(names=(*runs.names, "data.weight", "weight.x"))
    assert more.full_name("model.weight", "--over") == "model.weight"
    with pytest.raises(
        InputError, match=r"several\n  fix: name one of: model.weight, data.weight$"
    ):
        more.full_name("weight", "--over")


def test_a_table_shows_the_metrics_that_are_asked_for(trials, spec):
    runs = runs_of_sweep(spec, trials)
    lines = markdown(runs, "seed_everything", runs.measured("APr, AP")).splitlines()
    assert lines[0] == "| weight | APr | AP | trials |"
    assert lines[-1].startswith("APr and AP in percent;")
    with pytest.raises(InputError, match=r"metric 'AP50'\n.*AP, APr"):
        runs.measured("AP50")


def test_a_table_takes_the_place_of_the_one_before(tmp_path):
    page = tmp_path / "new" / "page.md"
    put_into(page, "one", "first")
    put_into(page, "two", "second")
    page.write_text("# Head\n" + page.read_text() + "tail\n")
    before = page.read_text()
    put_into(page, "one", "third")
    assert page.read_text() == before.replace("first", "third")


def test_no_value_ends_its_cell_or_its_row():
    assert row(["a|b", "one\ntwo", "<b>x"]) == "| a\\|b | one two | &lt;b>x |"
