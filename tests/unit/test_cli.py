import json
import os
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


@pytest.mark.parametrize("words", [["--help"], ["detect", "--help"]])
def test_help_is_shown_without_torch(words):
    """In a process of its own: here torch has been imported."""
    code = (
        "import contextlib, sys; from gridclip.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({words})\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "usage: gridclip" in shown
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
        "from gridclip.engine.lightning_cli import GridClipCLI, run_lightning\n"
        "GridClipCLI.instantiate_classes = lambda self: None\n"  # parsing is enough
        f"row = ['--config={ROW}', '--run_dir={tmp_path}', '--trainer.limit_val_batches=1']\n"
        "print(repr(run_lightning(row, run=False).config.trainer.limit_val_batches))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert said.stdout.splitlines()[-1] == "1", said.stderr


SCENE = {
    "images": [{"id": 1, "width": 9, "height": 9, "file_name": "a.jpg"}],
    "categories": [{"id": 1, "name": "cup"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 25}],
}
FOUND = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 1}]


@pytest.mark.field
@pytest.mark.parametrize(
    ("screen", "status", "told"),
    [
        ("ascii", 0, ""),
        ("full", 1, "error: what was printed: No space left on device\n"),
        ("closed", 1, ""),
    ],
)
def test_a_screen_that_takes_nothing_costs_no_figures(tmp_path, screen, status, told):
    """An ASCII terminal, a full disk, and `| head` that has gone."""
    (tmp_path / "gt.json").write_text(json.dumps(SCENE))
    (tmp_path / "dt.json").write_text(json.dumps(FOUND))
    output = tmp_path / "metrics.json"
    command = [sys.executable, "-m", "gridclip", "evaluate", f"--output={output}"]
    command += [f"--annotations={tmp_path / 'gt.json'}", f"--detections={tmp_path / 'dt.json'}"]
    reads, writes = os.pipe()
    os.close(reads)
    with open("/dev/full" if screen == "full" else tmp_path / "out", "w") as screen_file:  # noqa: PTH123
        done = subprocess.run(
            command,
            stdout=writes if screen == "closed" else screen_file,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii" if screen == "ascii" else "utf-8"},
        )
    os.close(writes)
    assert json.loads(output.read_text())["AP"] == pytest.approx(1)
    assert done.returncode == status, done.stderr
    assert done.stderr == told or not told
    assert "Traceback" not in done.stderr
    if screen == "ascii":
        assert "100.0" in (tmp_path / "out").read_text()


@pytest.mark.field
@pytest.mark.parametrize(
    "command",
    [
        "evaluate --annotations=gt --detections=dt --output={}",
        "classify a.jpg --run=run --boxes=boxes --names=cup --output={}",
        "detect a.jpg --run=run --names=cup --output={}",
        "propose source --run=run --output={}",
        "data check file --fix={}",
        "data concepts source --output={}.txt",
        "data embed source --output={}",
        "data entities dir --output={}",
        "data hold-out file {}",
        "data mini {}",
        "data pseudo-label source --vocabulary=names --output={}",
        "data show dir --output={}.jpg",
        "clip convert-regionclip file --output={}.safetensors",
        "clip embed-proposals proposals --source=source --output={}",
        "clip train --output={}",
        "dashboard show --output={}",
    ],
)
def test_an_output_that_cannot_be_written_is_found_before_anything_is_read(
    command, tmp_path, monkeypatch, capsys
):
    """Nothing else that the command names is there, and nothing of it is asked for."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as ended:
        main(command.format("file/out").split())
    assert ended.value.code == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


@pytest.mark.field
@pytest.mark.parametrize(
    "command",
    [
        "classify a.jpg --run=run --boxes=boxes --names=cup --best=0",
        "detect a.jpg --run=run --names=cup --limit=0",
        "detect a.jpg --run=run --names=cup --threshold=40",
        "propose source --run=run --output=out --limit=0",
        "propose source --run=run --output=out --num_workers=-1",
        "data concepts source --output=out.txt --min_count=0",
        "data embed source --output=out --batch_size=0",
        "data embed source --output=out --num_workers=-1",
        "data mini dir --train_images=0",
        "data pseudo-label source --vocabulary=names --output=out --batch_size=0",
        "data show dir --count=0",
        "clip embed-proposals proposals --source=source --output=out --batch_size=0",
        "clip train --output=out --steps=0",
    ],
)
def test_a_number_out_of_range_is_found_before_anything_is_read(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    assert "is out of range" in capsys.readouterr().err
