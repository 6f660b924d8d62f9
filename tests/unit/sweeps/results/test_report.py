import base64
import hashlib
import json
import math
import re

import pytest
from PIL import Image

from gridclip.io.errors import InputError
from gridclip.sweeps.results.report import best_number, find_sweep, page_data, write_report
from gridclip.sweeps.results.sweep_records import head_comment, read_records

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


@pytest.fixture
def folder(tmp_path):
    """A sweep with its file alone."""
    folder = tmp_path / "sweeps" / "little-1"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(SWEEP)
    return folder


def add_trial(folder, number, *, state="finished", weight=0.0, reason="", **metrics):
    """The files that a trial leaves; figures are fractions."""
    place = folder / "trials" / f"{number:03d}"
    place.mkdir(parents=True)
    record = {
        "number": number,
        "state": state,
        "reason": reason,
        "started": "2026-01-01T10:00:00+00:00",
        "ended": None if state == "running" else "2026-01-01T10:01:30+00:00",
        "parameters": {"model.weights.image": weight, "data.rare_split": "all"},
    }
    (place / "trial.json").write_text(json.dumps(record))
    if metrics:
        (place / "metrics.json").write_text(json.dumps(metrics))
    return place


def embedded(page):
    """The data within a page, as a browser would read it."""
    text = page.read_text()
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(block[1])


def test_a_page_holds_the_figures_of_every_trial(folder):
    add_trial(folder, 1, AP=0.4, APr=0.2, APc=0.4, APf=0.5)
    add_trial(folder, 2, weight=0.1, AP=0.3, APr=0.3, APc=0.3, APf=0.4)
    data = embedded(write_report(folder))
    assert data["best"] == 2
    assert data["question"] == "Does weight help, or does it not? A second line."
    assert [trial["figures"]["APr"] for trial in data["trials"]] == [0.2, 0.3]
    assert [trial["minutes"] for trial in data["trials"]] == [1.5, 1.5]
    assert [each["short"] for each in data["swept"]] == ["image"]
    assert [(each["short"], each["value"]) for each in data["fixed"]] == [("rare_split", "all")]


def test_an_average_precision_that_is_undefined_is_absent(folder):
    add_trial(folder, 1, AP=0.4, APr=-1.0, APc=None, APf=math.nan)
    [trial] = embedded(write_report(folder))["trials"]
    figures = {"AP": 0.4, "APr": None, "APc": None, "APf": None, "AP50": None}
    assert trial["figures"] == figures


def test_only_a_finished_trial_is_the_best(folder):
    add_trial(folder, 1, APr=0.2)
    add_trial(folder, 2, state="pruned", APr=0.9)
    add_trial(folder, 3, APr=0.2)
    assert best_number(read_records(folder)) == 1


def test_what_a_name_or_a_log_says_is_never_markup(folder):
    evil = '</script><script>alert("x")</script><!--<img src=x onerror=alert(1)>&amp;'
    (folder / "sweep.yaml").write_text(SWEEP.replace("name: little", f"name: '{evil}'"))
    place = add_trial(folder, 1, state="failed", reason=evil, per_category={evil: 0.5})
    (place / "log.txt").write_text(evil)
    page = write_report(folder)
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("<!--") == 0
    data = embedded(page)
    assert (data["name"], data["trials"][0]["reason"], data["logs"]["1"]) == (evil, evil, evil)
    assert data["categories"][0]["name"] == evil


def test_the_browser_is_told_to_run_this_script_alone(folder):
    text = write_report(folder).read_text()
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for part in (script, style):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_names_are_sorted_by_how_many_training_images_show_them(folder):
    place = add_trial(folder, 1, APr=0.1, per_category={"cup": 0.1, "fork": 0.25, "bowl": None})
    (place / "categories.csv").write_text(
        'name,frequency,training_images,AP\nbowl,r,3,\ncup,f,200,0.1\n"fork",f,900,0.25\n'
    )
    data = embedded(write_report(folder))
    assert [(each["name"], each["images"]) for each in data["categories"]] == [
        ("fork", 900),
        ("cup", 200),
        ("bowl", 3),
    ]
    assert data["trials"][0]["precision"] == [250, 100, None]


def test_results_stand_in_for_a_trial_whose_folder_is_elsewhere(folder):
    record = {
        "trial": 7,
        "state": "finished",
        "minutes": 3.0,
        "folder": "trials/007",
        "parameters": {"model.weights.image": 0.1},
        "metrics": {"AP": 0.5, "APr": 0.4},
    }
    (folder / "results.json").write_text(json.dumps({"trials": [record]}))
    data = embedded(write_report(folder))
    assert (data["best"], data["trials"][0]["figures"]["AP"]) == (7, 0.5)


def test_half_written_files_are_passed_over(folder):
    place = add_trial(folder, 1, state="running")
    (place / "metrics.json").write_text('{"AP": 0.')
    (place / "history.jsonl").write_text('{"step": 10, "val/AP": 0.1, "val/APr": null}\n{"step": 2')
    (folder / "results.json").write_text("[")
    [trial] = embedded(write_report(folder))["trials"]
    assert trial["history"] == {"step": [10], "AP": [0.1], "APr": [None]}
    assert (trial["minutes"], trial["figures"]["AP"], trial["state"]) == (None, 0.1, "running")


def test_examples_of_the_best_trial_are_inside_the_page(folder):
    place = add_trial(folder, 1, APr=0.2)
    (place / "pictures").mkdir()
    Image.new("RGB", (8, 4), "red").save(place / "pictures" / "1.jpg")
    example = {"picture": "1.jpg", "width": 8, "height": 4, "truth": [[0, 0, 4, 4, "cup"]]}
    (place / "pictures" / "examples.json").write_text(json.dumps([example | {"found": []}]))
    [shown] = embedded(write_report(folder))["examples"]
    scheme, _, content = shown["picture"].partition(",")
    assert scheme == "data:image/jpeg;base64"
    assert base64.b64decode(content) == (place / "pictures" / "1.jpg").read_bytes()


def test_the_question_is_the_comment_above_the_costs():
    assert head_comment("# one\n#   two\n#\n# three\nname: x # four") == "one two"
    assert head_comment("# one\n# Cost: much\n") == "one"
    assert head_comment("name: x\n# no head\n") == ""


def test_a_sweep_is_found_by_name_by_path_and_as_the_latest(folder):
    assert find_sweep(folder.name, folder.parent) == folder
    assert find_sweep(str(folder), folder / "nowhere") == folder
    assert find_sweep("latest", folder.parent) == folder
    with pytest.raises(InputError, match=f"the latest are .*{folder.name}"):
        find_sweep("nobody", folder.parent)


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no sweep\.yaml"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="gridclip sweep run"):
        find_sweep("latest", tmp_path)


def test_a_page_goes_where_it_is_asked_to(folder, tmp_path):
    page = write_report(folder, tmp_path / "new" / "page.html")
    assert page == tmp_path / "new" / "page.html"
    assert page.exists()
    assert not (folder / "report.html").exists()


def test_a_sweep_without_trials_or_metric_has_a_page(folder):
    text = SWEEP.replace("metric: {name: val/APr, goal: maximize}\n", "")
    (folder / "sweep.yaml").write_text(text)
    data = page_data(read_records(folder))
    assert (data["goal"], data["best"], data["trials"]) == (None, None, [])
