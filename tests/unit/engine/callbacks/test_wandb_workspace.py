import json
import re

import pytest

from gridclip.engine.callbacks import wandb_workspace
from gridclip.engine.callbacks.loggers import MAIN
from gridclip.engine.callbacks.wandb_workspace import SETTINGS, push_workspace, show_workspace
from gridclip.io.errors import InputError

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")

# What a run of the mini row leaves in TensorBoard, which gets the same keys as W&B.
LOGGED = {
    "lr-AdamW/pg1",
    "train/box",
    "train/centreness",
    "train/grid",
    "train/image",
    "train/image_level/loss",
    "train/image_level/unboxed",
    "train/images_per_second",
    "train/loss",
    *(f"val/AP{part}" for part in ("", "50", "75", "s", "m", "l", "r", "c", "f")),
    "val/APfa",
    "val/AP50fa",
    "val/AP_rare_shapes",
    "val/AP50_rare_shapes",
}
SWEEP = """
method: random
run_cap: 3
metric: {name: val/AP, goal: maximize}
parameters:
  model.detector.init_args.temperature: {min: 0.02, max: 0.2}
  seed_everything: {values: [0, 1]}
  data.init_args.rare_split: {value: all}
command: [train, "${args}"]
"""


@pytest.fixture
def shown(tmp_path):
    """Writes the workspace as JSON and reads its sections: name to panels."""

    def show(**options):
        show_workspace(output=tmp_path / "new" / "view.json", **options)
        view = json.loads((tmp_path / "new" / "view.json").read_text())
        sections = view["spec"]["section"]["panelBankConfig"]["sections"]
        return view, {section["name"]: section["panels"] for section in sections}

    return show


def test_rare_common_and_frequent_names_come_first(shown):
    view, sections = shown(entity="someone", project="things")
    assert (view["entity"], view["project"]) == ("someone", "things")
    first = sections["average precision"]
    assert next(iter(sections)) == "average precision"
    assert [panel["config"]["metrics"] for panel in first[:3]] == [
        ["val/APr"],
        ["val/APc"],
        ["val/APf"],
    ]


def test_every_key_of_a_panel_is_one_that_a_run_logs(shown):
    _, sections = shown()
    panels = [panel["config"] for section in sections.values() for panel in section]
    named = {key for panel in panels for key in panel.get("metrics", [])}
    assert named <= LOGGED
    patterns = [panel["metricRegex"] for panel in panels if "metricRegex" in panel]
    groups, losses, rates = ({key for key in LOGGED if re.search(each, key)} for each in patterns)
    assert groups == {"val/AP_rare_shapes", "val/AP50_rare_shapes"}
    assert losses == {key for key in LOGGED if key.startswith("train/")} - {
        "train/images_per_second"
    }
    assert rates == {"lr-AdamW/pg1"}
    assert named | groups | losses | rates == LOGGED
    assert [panel["mediaKeys"] for panel in panels if "mediaKeys" in panel] == [["val/pictures"]]


def test_runs_are_compared_by_settings_that_every_run_tells(shown):
    _, sections = shown()
    parallel, importance = (panel["config"] for panel in sections["settings"])
    columns = [column["accessor"] for column in parallel["columns"]]
    assert "config:model.value.optimizer.lr" in columns
    assert columns[-1] == "summary:val/APr"
    assert importance["targetKey"] == "val/APr"
    for name in SETTINGS:
        assert any(name == main or (main.endswith(".") and name.startswith(main)) for main in MAIN)


def test_a_sweep_file_names_the_settings_and_the_goal(shown, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    _, sections = shown(sweep=file)
    parallel, importance = (panel["config"] for panel in sections["settings"])
    assert [column["accessor"] for column in parallel["columns"]] == [
        "config:model.value.detector.init_args.temperature",
        "config:seed_everything.value",
        *(f"summary:val/AP{part}" for part in ("f", "c", "r", "")),
    ]
    assert importance["targetKey"] == "val/AP"


def test_without_a_key_nothing_is_pushed(monkeypatch):
    monkeypatch.setattr(wandb_workspace, "logged_in", lambda: False)
    with pytest.raises(InputError, match="wandb login"):
        push_workspace("someone")
