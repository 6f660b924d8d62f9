from pathlib import Path

import pytest
import yaml

from gridclip.cli import main

ROOT = Path(__file__).parents[3]
FIT = ["python", "-m", "gridclip", "fit", "--config", "experiments/mini/gridclip.yaml", "${args}"]
WEIGHT = "model.detector.init_args.weights.image"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Checks a sweep with some changes from the repository: the exit status, and what is said."""
    monkeypatch.chdir(ROOT)

    def run(**changes):
        config = {
            "method": "grid",
            "metric": {"name": "val/APr", "goal": "maximize"},
            "parameters": {WEIGHT: {"values": [0.0, 0.1]}},
            "command": FIT,
        }
        file = tmp_path / "small.yaml"
        file.write_text(yaml.safe_dump(config | changes, sort_keys=False))
        before = {*tmp_path.rglob("*")}
        try:
            main(["sweep", "check", str(file)])
            status = 0
        except SystemExit as end:
            status = end.code
        assert {*tmp_path.rglob("*")} == before
        out, err = capsys.readouterr()
        return status, out + err

    return run


def test_a_sound_sweep_is_told_without_starting_it(check):
    parameters = {
        WEIGHT: {"values": [0.0, 0.1]},
        "data.init_args.val_folder": {"values": [None, "val"]},
        "ckpt_path": {"value": "a.ckpt"},
    }
    status, said = check(parameters=parameters, run_cap=3, kind="sweep")
    assert status == 0
    assert "small: W&B would take it" in said
    assert "ignored on this machine: kind (line " in said
    assert "trials: 3 of the 4 combinations of a grid" in said
    commands = [line for line in said.splitlines() if line.startswith("trial ")]
    assert len(commands) == 3
    start = "trial 1: python -m gridclip fit --config experiments/mini/gridclip.yaml"
    assert commands[0] == (
        f"{start} --ckpt_path=a.ckpt --data.init_args.val_folder=None --{WEIGHT}=0.0"
    )
    assert "wrong" not in said


def test_a_parameter_the_command_does_not_know_is_named_with_what_was_meant(check):
    typo = WEIGHT.replace("image", "imge")
    parameters = {typo: {"values": [0.0]}, "data.init_args.rare_split": {"values": ["all", "some"]}}
    status, said = check(parameters=parameters)
    assert status == 1
    assert f"wrong: {typo}=0.0:" in said
    assert f"fix: did you mean {WEIGHT}?" in said
    assert "wrong: data.init_args.rare_split=some:" in said
    assert said.count("wrong:") == 2


def test_settings_that_belong_together_are_no_fault_alone(check):
    parameters = {
        "model.detector.init_args.assigner.class_path": {"value": "ATSSAssigner"},
        "model.detector.init_args.assigner.init_args.top_k": {"values": [5, 9]},
    }
    assert check(parameters=parameters)[0] == 0
    del parameters["model.detector.init_args.assigner.class_path"]
    status, said = check(parameters=parameters)
    assert (status, "top_k=5:" in said) == (1, True)


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"method": "rondom"}, 2, "'rondom' is not one of grid, random"),
        ({"scheduler": {"a": 1}}, 2, "is carried out by services of W&B"),
        ({"command": ["python", "x ${args}"]}, 2, "inside a word, which W&B does not expand"),
        ({"project": "a/b"}, 2, "'a/b' is no name that W&B takes"),
        ({"method": "random"}, 0, "trials: without end, for random has none: give --cap N"),
        ({"command": ["python", "t.py"]}, 0, "mind: the command has no ${args}"),
        ({"command": ["no-such-program", "${args}"]}, 1, "wrong: command: there is no program"),
        ({"command": ["python", "t.py", "${args}"]}, 0, "not checked, for the command is no"),
        ({"command": ["python", "${envvar:GONE_X}", "${args}"]}, 0, "GONE_X} is not set"),
        ({"command": ["python", "${program}", "${args}"], "program": "t.py"}, 1, "no file t.py"),
        (
            {"parameters": {"seed": {"min": 0, "max": 2**40}}, "command": ["python", "${args}"]},
            0,
            "trials: 1099511627777 of the 1099511627777 combinations",
        ),
    ],
)
def test_what_would_go_wrong_is_told_with_its_status(check, monkeypatch, changes, status, text):
    monkeypatch.delenv("GONE_X", raising=False)
    found, said = check(**changes)
    assert text in said
    assert found == status


@pytest.mark.parametrize(
    "command",
    [
        ["/no/${envvar:TOKEN_OF_MINE}/train", "${args}"],
        ["python", "-m", "gridclip", "fit", "--trainer.max_steps=${envvar:TOKEN_OF_MINE}"],
    ],
)
def test_a_secret_of_the_command_is_not_told_by_what_refuses_it(check, monkeypatch, command):
    monkeypatch.setenv("TOKEN_OF_MINE", "hush-4711")
    found, said = check(command=command)
    assert found == 1
    assert "${envvar:TOKEN_OF_MINE}" in said
    assert "hush-4711" not in said
