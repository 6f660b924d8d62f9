import io
import random
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from gridclip.io.tables import ENDLESS, WholeTable, make_console, say

SOURCE = Path(__file__).parents[3] / "src" / "gridclip"
HEADINGS = ("setting", "AP", "APr", "AP50r", "p")
ROWS = (("0.0001", "100.0", "12.3 ± 0.4", "–", "0.013"), ("1e-05", "7.1", "100.0", "55.5", "1"))


def printed(table, width):
    output = io.StringIO()
    Console(file=output, width=width).print(table)
    return output.getvalue().splitlines()


def table_of(rows, headings=HEADINGS, **settings):
    table = WholeTable(headings, **settings)
    for row in rows:
        table.add_row(*row)
    return table


def test_every_figure_stands_whole_on_a_line_and_no_line_is_too_long_at_any_width():
    draw = random.Random(0)
    for width in (24, 40, 57, 80, 120):
        for _ in range(10):
            rows = [[f"{draw.random() * 10 ** draw.randint(-6, 6):.6g}" for _ in HEADINGS]]
            lines = printed(table_of(rows), width)
            assert all(len(line) <= width for line in lines)
            words = " ".join(lines).split()
            assert all(words.count(figure) >= rows[0].count(figure) for figure in rows[0])


@pytest.mark.parametrize("width", [24, 40, 80, ENDLESS])
def test_a_figure_with_its_spread_is_one_piece(width):
    assert any("12.3 ± 0.4" in line for line in printed(table_of(ROWS), width))


def test_a_table_is_one_where_it_fits_and_lines_where_it_does_not():
    wide, narrow = printed(table_of(ROWS), 60), printed(table_of(ROWS), 40)
    assert wide[0].startswith("┏")
    assert [len(line) for line in wide] == [len(wide[0])] * len(wide)
    assert narrow == [
        "setting 0.0001  AP 100.0  APr 12.3 ± 0.4",
        "  AP50r –  p 0.013",
        "setting 1e-05  AP 7.1  APr 100.0",
        "  AP50r 55.5  p 1",
    ]


def test_long_texts_are_folded_between_words_before_a_table_is_given_up():
    told = "mend the path of the image or take it out of the file"
    lines = printed(table_of([(told, "100.0")], ("fix", "AP"), left=["fix"]), 30)
    assert lines[0].startswith("┏")
    body = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    assert " ".join(first.strip() for first, _ in body) == told
    assert [second.strip() for _, second in body] == ["100.0"] + [""] * (len(body) - 1)


def test_title_and_caption_stand_by_the_lines_too_and_nothing_is_markup():
    table = table_of([("[red]",)], ("[bold]",), title="[t] 1", caption="[c] 2")
    for width in (12, 40):
        text = "\n".join(printed(table, width))
        assert all(word in text for word in ("[t] 1", "[c] 2", "[bold]", "[red]"))


def test_wide_letters_count_for_what_they_take():
    lines = printed(table_of([("実験" * 6, "1.5")], ("name", "AP")), 20)
    assert "".join(lines).count("実") == "".join(lines).count("験") == 6
    assert all(cell_len(line) <= 20 for line in lines)
    assert any("AP 1.5" in line for line in lines)


def test_a_pipe_has_no_edge_unless_one_is_asked_for(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console().width == ENDLESS
    monkeypatch.setenv("COLUMNS", "40")
    assert make_console().width == 40


@pytest.mark.field
def test_letters_that_the_output_cannot_have_are_replaced(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console = make_console()
    say(console, "実験: 12.3 ± 0.4")
    console.print(table_of([("実", "–")], ("name", "AP")))
    sys.stdout.flush()
    assert b"??: 12.3 ? 0.4" in raw.getvalue()


def test_a_row_has_a_cell_for_each_heading():
    with pytest.raises(ValueError, match="1 cells under 5 headings"):
        WholeTable(HEADINGS).add_row("1")


@pytest.mark.parametrize("own", ["rich.table", "Console().print("])
def test_no_other_module_has_a_table_or_a_console_of_its_own(own):
    assert {file.name for file in SOURCE.rglob("*.py") if own in file.read_text()} <= {"tables.py"}


def test_no_command_to_a_terminal_is_shown():
    codes = ("\x1b]0;t\x07", "\x1b[2J", "\x9b2J", "\x1bc", "\u202e")
    output = io.StringIO()
    console = Console(file=output, width=200)
    for code in codes:
        say(console, f"line {code}")
        table = WholeTable([f"heading {code}"])
        table.add_row(f"cell {code}")
        console.print(table)
    assert output.getvalue().count("cell") == len(codes)
    assert not set(output.getvalue()) & set("\x1b\x07\x9b\u202e")
