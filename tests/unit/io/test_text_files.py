"""Text files as Windows, spreadsheets and scrapers write them."""

import codecs
import json

import pytest

from gridclip.io.errors import InputError
from gridclip.io.text import decode_text, ending, read_json_lines, read_lines, read_table, read_text

pytestmark = pytest.mark.field

# What str.splitlines takes for an end of a line, though text goes on: captions hold them.
INSIDE = ["\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_text_is_the_same_in_every_encoding_that_names_itself(tmp_path, encoding):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    file = tmp_path / "names.txt"
    file.write_bytes(mark + "café\r\n星\n".encode(encoding))
    assert read_lines(file) == ["café", "星"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("one\ncafé\n".encode("latin-1"), "cannot be read as text in utf-8 .* on line 2"),
        ("one\r\n\rcafé".encode("cp1252"), ".* on line 3"),
        (
            "red star\n".encode("utf-16-le"),
            ".* null characters, as UTF-16 without a mark .* line 1",
        ),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "cannot be read as text in utf-16"),
    ],
)
def test_other_encodings_are_refused_and_not_guessed(tmp_path, content, told):
    file = tmp_path / "names.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"names\.txt: {told}(.|\n)*save it again as text in UTF"):
        read_text(file)
    with pytest.raises(InputError, match=rf"names\.txt: in it: {told}"):
        decode_text(content, file, "in it")


def test_a_line_ends_at_line_feeds_and_carriage_returns_alone(tmp_path):
    file = tmp_path / "lines.txt"
    words = [f"a{sign}b" for sign in INSIDE]
    for end in ("\n", "\r\n", "\r"):
        file.write_bytes(end.join([*words, "", "last"]).encode())
        assert read_lines(file) == [*words, "", "last"]
        file.write_bytes((end.join(words) + end).encode())
        assert read_lines(file) == words
    file.write_bytes(b"")
    assert read_lines(file) == []


def test_json_lines_hold_whatever_json_need_not_escape(tmp_path):
    rows = [{"caption": f"a{sign}b"} for sign in INSIDE]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("\ufeff" + "\r\n".join(lines) + "\r\n \r\n{]\r\n" + "[" * 10**5, newline="")
    assert [*read_json_lines(file)] == [
        *enumerate(rows, 1),
        (len(rows) + 2, None),
        (len(rows) + 3, None),
    ]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.TSV", "\t")])
def test_a_cell_in_quotes_may_hold_line_ends_and_quotes(tmp_path, name, mark):
    file = tmp_path / name
    text = f'name{mark}more\r\n"a ""b"""{mark}"one\r\ntwo{mark}"\r\n\r\nc\vd{mark}x\r\n'
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [*read_table(file, "mend it")] == [
        (1, ["name", "more"]),
        (3, ['a "b"', f"one\ntwo{mark}"]),
        (5, ["c\vd", "x"]),
    ]


@pytest.mark.parametrize("row", ['a,"open', 'a,"open\nb,it is "here"', 'a,"x" y'])
def test_an_open_quote_is_refused_with_the_line_where_its_row_begins(tmp_path, row):
    file = tmp_path / "a.csv"
    file.write_text(f"name,more\nfirst,row\n{row}\nlast,row\n")
    with pytest.raises(InputError, match=r"a\.csv: line 3: has a row that is no csv .*\n.*mend it"):
        [*read_table(file, "mend it")]


def test_an_ending_in_capitals_is_the_ending(tmp_path):
    assert ending(tmp_path / "A.B.JsonL") == ".jsonl"
    assert ending(tmp_path / "A.d" / "names") == ""
