from pathlib import Path
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentParser, get_loader

from gridclip.io.arguments import PARSER_MODE, read_value, refuse_replaced
from gridclip.io.errors import InputError


def parsed(kind, word):
    """What a setting of a type gets from a word of the command line."""
    parser = ArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
    parser.add_argument("--x", type=kind)
    return parser.parse_args([f"--x={word}"])["x"]


@pytest.mark.field
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (str | None, None),
        (Path | None, None),
        (float | None, None),
        (int | None, None),
        (Literal["a", "b"] | None, None),
        (list[float | None] | None, [0.1, None]),
        (dict[str, Any] | None, {"z": 1, "k": {"deep": [True, None, 1e-05]}}),
        (bool, True),
        (bool, False),
        (float, 1e-05),
        (float, 1e16),
        (int | float, 3),
        (list[int], [1, 2]),
        (
            list[str],
            ["it's", 'a "b"', "both ' and \"", "back\\slash \\d", "None", "null", "no", "1"],
        ),
        (list[list[bool]], [[True], [False]]),
        (str, "a b = 'c' ${args}"),
        (str, "photo: x"),
        (str, "[x"),
        (str, "None"),
        (str, "true"),
        (str, "2026-01-01"),
        (str | None, "no"),
    ],
)
def test_what_pythons_str_writes_is_read_as_the_value_that_it_was(kind, value):
    found = parsed(kind, str(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "{a: 1, b: [1e-3, .5, 1., -2.5e+3, 1_000, .inf, -.inf]}",
        "a:\n  b: null\n  c: [x, 'None', \"y\\n\"]\n  d: {e: ~}",
        '{"json": [true, false, null, 1.5e3]}',
        "key: 2026-01-01",
        "[01, 0x1F, yes, off]",
        "- photo\n- 'a {}'",
        "",
    ],
)
def test_a_row_reads_as_the_parsers_own_mode_has_it(text):
    assert read_value(text) == get_loader("yaml")(text)


def test_a_bare_none_in_a_row_is_null_and_one_in_quotes_is_text():
    assert read_value("{a: None, b: 'None', c: None of these}") == {
        "a": None, "b": "None", "c": "None of these"
    }  # fmt: skip


ROW = """
trainer: {max_steps: 9}
data: {class_path: DetectionData, init_args: {seed: 1}}
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.max_steps", "1", "--config", "{row}"],
        ["--trainer.max_steps=1", "--config={row}"],
        ["--trainer.max_steps=1", "-c", "{row}"],
        ["--data.init_args.other=1", "--config={row}"],  # whose class no word has named yet
        ["--config={other}", "--trainer.max_steps=1", "--config={row}"],
    ],
)
def test_an_option_that_a_later_row_would_replace_is_refused(tmp_path, words):
    row, other = tmp_path / "row.yaml", tmp_path / "other.yaml"
    row.write_text(ROW)
    other.write_text("seed_everything: 3")
    with pytest.raises(InputError, match=r"stands before --config .*row\.yaml, which would"):
        refuse_replaced([word.format(row=row, other=other) for word in words])


@pytest.mark.parametrize(
    "words",
    [
        ["--config={row}", "--trainer.max_steps=1", "--data.init_args.seed=2"],
        ["--run_dir=here", "--seed_everything=3", "--config", "{row}"],  # the row has neither
        ["--config={row}", "--data.init_args.seed=2", "--config={other}"],
        ["--model.optimizer.lr=1", "--config={row}"],  # no class is to be named for it
        ["--trainer.max_steps=1", "--config=nowhere.yaml"],  # the parser says so
    ],
)
def test_an_option_that_no_later_row_sets_is_taken(tmp_path, words):
    row, other = tmp_path / "row.yaml", tmp_path / "other.yaml"
    row.write_text(ROW)
    other.write_text("seed_everything: 3")
    refuse_replaced([word.format(row=row, other=other) for word in words])
