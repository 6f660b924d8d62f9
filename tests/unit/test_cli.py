import subprocess
import sys
from pathlib import Path

import pytest

from gridclip.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
ROW = ROOT / "experiments" / "mini" / "gridclip.yaml"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"usage: gridclip {name} ")
    first_line = COMMANDS[name].load().__doc__.splitlines()[0]
    assert first_line.endswith(".")
    assert " ".join(first_line.split()) in shown


@pytest.mark.parametrize("arguments", [[], ["--help"], ["data", "--help"]])
def test_help_lists_every_command(arguments, capsys):
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [*COMMANDS] == [
        name for line in lines for name in COMMANDS if f"{line} ".startswith(f"  gridclip {name} ")
    ]
    for command in COMMANDS.values():
        [line] = [line for line in lines if line.startswith(f"  gridclip {command.words} ")]
        assert line.endswith(command.purpose or command.usage)


def test_help_is_shown_without_torch():
    """In a process of its own: here torch has been imported."""
    code = (
        "import sys; from gridclip.cli import main; main(['--help']); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert shown.splitlines()[-1] == "False"


def test_images_may_stand_at_the_end_behind_the_options(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["detect", "--run", str(tmp_path), "--names", "cup", "a.jpg", "b.jpg"])
    assert ended.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err  # it was parsed, and the run has no training


def test_an_unknown_command_is_named_and_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "mimi", "DIR"])
    assert ended.value.code == 2
    assert "'data mimi'" in capsys.readouterr().err


def test_a_command_that_runs_a_teacher_knows_all_of_them_by_their_short_names():
    """In a process of its own: what others imported would be known here too."""
    code = (
        "import gridclip.engine.precompute.embed_images, gridclip.models.encoders.teachers as all\n"
        "print(*(each.__name__ for each in all.Teacher.__subclasses__()))"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert {"ClipTeacher", "ClassifierTeacher"} <= {*said.split()}


def test_one_batch_stays_one_batch_where_rich_was_imported_before_lightning(tmp_path):
    """Rich names the union of float and int, and typing keeps the order it met first."""
    code = (
        "import rich.console\n"
        "from gridclip.engine.lightning_cli import run_lightning\n"
        f"row = ['--config={ROW}', '--run_dir={tmp_path}', '--trainer.limit_val_batches=1']\n"
        "print(repr(run_lightning(row, run=False).config.trainer.limit_val_batches))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert said.stdout.splitlines()[-1] == "1", said.stderr
