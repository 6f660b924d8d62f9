import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image

from gridclip.io.errors import InputError
from gridclip.sweeps.results.report import head_comment, write_report
from gridclip.sweeps.running.command import sweep_report
from gridclip.sweeps.running.start import start_sweep
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.trial import Trial

SWEEP = """# Does weight help, or does it not?
# A second line.
# Cost: nothing.
name: little
method: grid
metric: {name: val/APr, goal: maximize}
parameters:
  model.weights.image: {values: [0.0, 0.1]}
  data.rare_split: {value: all}
command: [train, "${args}"]
"""

START = datetime(2026, 1, 1, 10, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    """A sweep with its file alone."""
    folder = tmp_path / "sweeps" / "little-1"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(SWEEP)
    return folder


def add_trial(folder, number, *, state="finished", weight=0.0, reason="", **metrics):
    """A trial and the files that it leaves; metrics are fractions."""
    place = folder / "trials" / f"{number:03d}"
    place.mkdir(parents=True)
    if metrics:
        (place / "metrics.json").write_text(json.dumps(metrics))
    return Trial(
        number=number,
        folder=place,
        point={"model.weights.image": weight, "data.rare_split": "all"},
        argv=(),
        run_id="r",
        started=START,
        state=state,
        reason=reason,
        ended=None if state == "running" else START + timedelta(seconds=90),
        runner="me",
    )


def make_report(folder, *trials, output=None):
    return write_report(read_sweep(folder / "sweep.yaml"), folder, trials, output)


def embedded(page):
    """The data within a page, as a browser would read it."""
    text = page.read_text()
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(block[1])


def test_a_page_holds_the_figures_of_every_trial(folder):
    first = add_trial(folder, 1, AP=0.4, APr=0.2, APc=0.4, APf=0.5)
    second = add_trial(folder, 2, weight=0.1, AP=0.3, APr=0.3, APc=0.3, APf=0.4)
    data = embedded(make_report(folder, first, second))
    assert data["best"] == 2
    assert data["question"] == "Does weight help, or does it not? A second line."
    assert [trial["figures"]["APr"] for trial in data["trials"]] == [0.2, 0.3]
    assert [trial["minutes"] for trial in data["trials"]] == [1.5, 1.5]
    assert [each["short"] for each in data["swept"]] == ["image"]
    assert [(each["short"], each["value"]) for each in data["fixed"]] == [("rare_split", "all")]


def test_named_groups_are_figures_and_curves(folder):
    trial = add_trial(folder, 1, AP=0.4, AP_novel=0.2, AP50_novel=0.3)
    row = {"step": 5, "val/AP_novel": 0.1}
    (trial.folder / "history.jsonl").write_text(json.dumps(row) + "\n")
    data = embedded(make_report(folder, trial))
    assert data["figures"] == ["AP", "APr", "APc", "APf", "AP50", "AP_novel", "AP50_novel"]
    [shown] = data["trials"]
    assert (shown["figures"]["AP_novel"], shown["figures"]["AP50_novel"]) == (0.2, 0.3)
    assert shown["history"] == {"step": [5], "AP_novel": [0.1]}


def test_an_average_precision_that_is_undefined_is_absent(folder):
    trial = add_trial(folder, 1, AP=0.4, APr=-1.0, APc=None, APf=math.nan)
    [shown] = embedded(make_report(folder, trial))["trials"]
    figures = {"AP": 0.4, "APr": None, "APc": None, "APf": None, "AP50": None}
    assert shown["figures"] == figures


@pytest.mark.field
def test_a_value_that_is_no_finite_number_is_shown_as_text(folder):
    trials = [
        add_trial(folder, number, weight=weight, APr=0.2)
        for number, weight in enumerate((1.0, math.inf, -math.inf, math.nan, [math.inf]), 1)
    ]
    (trials[0].folder / "pictures").mkdir()
    Image.new("RGB", (8, 4), "red").save(trials[0].folder / "pictures" / "1.jpg")
    example = '[{"picture": "1.jpg", "found": [[0, 0, 4, 4, "cup", NaN]]}]'
    (trials[0].folder / "pictures" / "examples.json").write_text(example)
    page = make_report(folder, *trials)
    data = embedded(page)
    shown = [trial["point"]["model.weights.image"] for trial in data["trials"]]
    assert shown == [1.0, "inf", "-inf", "nan", ["inf"]]
    for word in ("NaN", "Infinity"):
        assert f":{word}" not in page.read_text().split('id="data">')[1].split("</script>")[0]


def test_only_a_finished_trial_is_the_best(folder):
    trials = [
        add_trial(folder, 1, APr=0.2),
        add_trial(folder, 2, state="pruned", APr=0.9),
        add_trial(folder, 3, APr=0.2),
    ]
    assert embedded(make_report(folder, *trials))["best"] == 1


def test_what_a_name_or_a_log_says_is_never_markup(folder):
    evil = '</script><script>alert("x")</script><!--<img src=x onerror=alert(1)>&amp;'
    (folder / "sweep.yaml").write_text(SWEEP.replace("name: little", f"name: '{evil}'"))
    trial = add_trial(folder, 1, state="failed", reason=evil, per_category={evil: 0.5})
    (trial.folder / "log.txt").write_text(evil)
    page = make_report(folder, trial)
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("<!--") == 0
    data = embedded(page)
    assert (data["name"], data["trials"][0]["reason"], data["logs"]["1"]) == (evil, evil, evil)
    assert data["categories"][0]["name"] == evil


def test_the_browser_is_told_to_run_this_script_alone(folder):
    text = make_report(folder).read_text()
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for part in (script, style):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_names_are_sorted_by_how_many_training_images_show_them(folder):
    trial = add_trial(folder, 1, APr=0.1, per_category={"cup": 0.1, "fork": 0.25, "bowl": None})
    (trial.folder / "categories.csv").write_text(
        'name,frequency,training_images,AP\nbowl,r,3,\ncup,f,200,0.1\n"fork",f,900,0.25\n'
    )
    data = embedded(make_report(folder, trial))
    assert [(each["name"], each["images"]) for each in data["categories"]] == [
        ("fork", 900),
        ("cup", 200),
        ("bowl", 3),
    ]
    assert data["trials"][0]["precision"] == [250, 100, None]


def test_the_command_shows_what_the_storage_has_though_the_folders_are_elsewhere(folder, capsys):
    sweep = start_sweep(
        read_sweep(folder / "sweep.yaml"), folder.parent, None, seed=0, cap=None, lease=9.0
    )
    trial = add_trial(folder, 7)
    claimed = replace(trial, state="running", ended=None)
    row = {"step": 10, "val/AP": 0.4}
    assert sweep.storage.claim(claimed)
    assert sweep.storage.update(replace(trial, rows=(row,), figures={"AP": 0.5, "APr": 0.4}))
    sweep_report("latest", dir=folder.parent)
    assert f"report: {sweep.folder / 'report.html'}" in capsys.readouterr().out
    data = embedded(sweep.folder / "report.html")
    assert (data["best"], data["hours"]) == (7, 90 / 3600)
    assert data["trials"][0]["figures"]["AP"] == 0.5
    assert data["trials"][0]["history"] == {"step": [10], "AP": [0.4]}


def test_half_written_files_are_passed_over(folder):
    trial = add_trial(folder, 1, state="running")
    (trial.folder / "metrics.json").write_text('{"AP": 0.')
    rows = (
        '{"step": 5, "val/AP": 0.2, "val/APr": 0.3}\n{"step": 10, "val/AP": 0.1, "val/APr": null}'
    )
    (trial.folder / "history.jsonl").write_text(rows + '\n{"step": 2')
    [shown] = embedded(make_report(folder, trial))["trials"]
    assert shown["history"] == {"step": [5, 10], "AP": [0.2, 0.1], "APr": [0.3, None]}
    assert (shown["minutes"], shown["figures"]["AP"], shown["state"]) == (None, 0.1, "running")


def test_examples_of_the_best_trial_are_inside_the_page(folder):
    trial = add_trial(folder, 1, APr=0.2)
    place = trial.folder
    (place / "pictures").mkdir()
    Image.new("RGB", (8, 4), "red").save(place / "pictures" / "1.jpg")
    example = {"picture": "1.jpg", "width": 8, "height": 4, "truth": [[0, 0, 4, 4, "cup"]]}
    (place / "pictures" / "examples.json").write_text(json.dumps([example | {"found": []}]))
    [shown] = embedded(make_report(folder, trial))["examples"]
    scheme, _, content = shown["picture"].partition(",")
    assert scheme == "data:image/jpeg;base64"
    assert base64.b64decode(content) == (place / "pictures" / "1.jpg").read_bytes()


def test_the_question_is_the_comment_above_the_costs():
    assert head_comment("# one\n#   two\n#\n# three\nname: x # four") == "one two"
    assert head_comment("# one\n# Cost: much\n") == "one"
    assert head_comment("name: x\n# no head\n") == ""


def test_a_folder_without_a_sweep_is_refused(folder):
    with pytest.raises(InputError, match="gridclip sweep run"):
        sweep_report("latest", dir=folder.parent)


def test_a_page_goes_where_it_is_asked_to(folder, tmp_path):
    page = make_report(folder, output=tmp_path / "new" / "page.html")
    assert page == tmp_path / "new" / "page.html"
    assert page.exists()
    assert not (folder / "report.html").exists()


def test_a_sweep_without_trials_or_metric_has_a_page(folder):
    text = SWEEP.replace("metric: {name: val/APr, goal: maximize}\n", "")
    (folder / "sweep.yaml").write_text(text)
    data = embedded(make_report(folder))
    assert (data["goal"], data["best"], data["trials"]) == (None, None, [])
