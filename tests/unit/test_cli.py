import importlib

import pytest

from gridclip.cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    module, _, function = COMMANDS[name].partition(":")
    first_line = getattr(importlib.import_module(module), function).__doc__.splitlines()[0]
    assert f"usage: gridclip {name}" in capsys.readouterr().out
    assert first_line.endswith(".")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["data", "--help"]])
def test_help_lists_every_command(arguments, capsys):
    main(arguments)
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"gridclip {name} " not in shown] == []


def test_an_unknown_command_is_named_and_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "mimi", "DIR"])
    assert ended.value.code == 2
    assert "'data mimi'" in capsys.readouterr().err
