from pathlib import Path
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentParser, get_loader

from gridclip.io.arguments import PARSER_MODE, read_value


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
