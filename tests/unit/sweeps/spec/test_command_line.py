import json
import sys

from gridclip.sweeps.spec.sweep_file import expand_command, write_arguments

ARGUMENTS = {"a.b": 0.5, "flag": True, "off": False, "n": None, "list": [0.8, 0.9], "text": "x y"}


def expand(tmp_path, *words):
    file = tmp_path / "given.json"
    return expand_command(words, ARGUMENTS, program="train.py", json_file=file)


def test_the_default_command_runs_the_program_with_this_python(tmp_path):
    words = expand(tmp_path, "${env}", "${interpreter}", "${program}", "${args}")
    assert words == (
        "/usr/bin/env",
        sys.executable,
        "train.py",
        "--a.b=0.5",
        "--flag=True",
        "--off=False",
        "--n=None",
        "--list=[0.8, 0.9]",
        "--text=x y",
    )


def test_boolean_flags_stand_alone_or_are_left_out(tmp_path):
    words = expand(tmp_path, "${args_no_boolean_flags}")
    assert words[:3] == ("--a.b=0.5", "--flag", "--n=None")


def test_a_macro_expands_only_as_a_whole_word(tmp_path):
    words = ("x${program}", "${program}x", "${program}")
    assert expand(tmp_path, *words) == ("x${program}", "${program}x", "train.py")


def test_environment_variables_expand_inside_a_word_and_fall_back_on_their_name(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HERE", "/data")
    monkeypatch.delenv("GONE", raising=False)
    words = expand(tmp_path, "--dir=${envvar:HERE}/${envvar:GONE}")
    assert words == ("--dir=/data/GONE",)


def test_the_json_file_is_written_only_when_it_is_named(tmp_path):
    file = tmp_path / "given.json"
    for word, exists in (("${args_json}", False), ("${args_json_file}", True)):
        write_arguments([word], ARGUMENTS, file)
        assert file.exists() is exists
    assert expand(tmp_path, "${args_json_file}") == (str(file),)
    assert json.loads(file.read_text()) == ARGUMENTS
