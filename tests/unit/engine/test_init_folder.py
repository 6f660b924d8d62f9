from pathlib import Path

import pytest

from gridclip.cli import main
from gridclip.engine.init_folder import init_folder
from gridclip.io.errors import InputError

ROOT = Path(__file__).parents[3]


def texts(folder, tree):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in (folder / tree).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("tree", ["experiments", "sweeps"])
def test_a_new_folder_gets_every_row_and_sweep_of_the_repository(tree, tmp_path):
    main(["init", str(tmp_path / "work")])
    written = texts(tmp_path / "work", tree)
    assert written == texts(ROOT, tree)
    assert written


def test_the_readme_names_only_rows_and_sweeps_that_were_written(tmp_path):
    init_folder(tmp_path)
    words = (tmp_path / "README.md").read_text().split()
    named = [word for word in words if word.endswith(".yaml")]
    assert len(named) > 2
    assert [name for name in named if not (tmp_path / name).is_file()] == []


def test_what_a_user_wrote_stays_and_what_is_missing_comes_back(tmp_path, capsys):
    init_folder(tmp_path)
    row, sweep = tmp_path / "experiments/mini/gridclip.yaml", tmp_path / "sweeps/mini.yaml"
    row.write_text("mine")
    sweep.unlink()
    (tmp_path / "README.md").write_text("my notes")
    capsys.readouterr()
    init_folder(tmp_path)
    assert (row.read_text(), (tmp_path / "README.md").read_text()) == ("mine", "my notes")
    assert sweep.is_file()
    said = capsys.readouterr().out
    assert "1 files written" in said
    assert "kept as they were" in said
    assert "README.md, experiments/mini/gridclip.yaml" in said


def test_a_file_is_no_folder_to_work_in(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"):
        init_folder(tmp_path / "file")
