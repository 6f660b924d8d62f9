import json

import pytest

from gridclip.data.category_names import Definitions, read_concepts, read_names
from gridclip.io.errors import InputError

LVIS = [
    {
        "name": "alarm_clock",
        "synonyms": ["alarm_clock", "wake-up clock"],
        "def": "a clock that rings",
    },
    {"name": "bat_(animal)", "synonyms": ["bat_(animal)"], "def": "a flying  mouselike mammal"},
    {"name": "thing"},
]
DATA = """  1 This file is free to use.
00001 05 n 02 bat 0 chiropteran 0 001 @ 00009 n 0000 | nocturnal mouselike mammal; "it hung"
00002 06 n 01 bat 1 001 @ 00009 n 0000 | a club used for hitting a ball
00003 06 n 01 alarm_clock 0 001 @ 00009 n 0000 | a clock that wakes a sleeper
"""
INDEX = """  1 This file is free to use.
bat n 2 1 @ 2 1 00002 00001
"""


def _written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.field
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "\ufeffred star\nblue\u2028heart\n"),
        ("coco.NAMES", "red star\r\n\r\nblue\u2028heart"),
        ("names", "red star\rblue\u2028heart\r"),
        ("names.CSV", "\ufeffname,count\nred star,3\nblue\u2028heart,\n"),
        ("names.JSON", '\ufeff["red star", "blue\\u2028heart"]'),
    ],
)
def test_names_are_the_same_in_every_form_of_their_file(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8", newline="")
    assert read_names(file).names == ("red star", "blue\u2028heart")


@pytest.mark.field
@pytest.mark.parametrize("name", ["data.yaml", "names.jsonl", "names.json.gz", "names.xlsx"])
def test_a_file_of_another_form_is_no_list_of_names(tmp_path, name):
    (tmp_path / name).write_text("names:\n  0: red star\n")
    with pytest.raises(InputError, match=r"\.\w+ is no kind of list of names\n.*a \.txt with"):
        read_names(tmp_path / name)


@pytest.mark.field
def test_a_definition_over_several_lines_is_one_text(tmp_path):
    file = tmp_path / "names.csv"
    file.write_text('name,definition\nstar,"line one\nline two"\nheart,one\vtwo\n', newline="")
    assert [each.definition for each in read_concepts(file)] == ["line one line two", "one two"]
    known = Definitions(_written(tmp_path, "a.TSV", '\ufeffdog\t"it barks,\nmostly"\n'))
    assert known.of("dog") == "it barks, mostly"


@pytest.mark.field
def test_half_an_emoji_is_no_name(tmp_path):
    (tmp_path / "names.json").write_text('[{"name": "dog"}, {"name": "cat \\ud83d"}]')
    with pytest.raises(InputError, match=r"names\.json: categories\[1\]\.name"):
        read_names(tmp_path / "names.json")


@pytest.mark.parametrize("wrapped", [True, False])
def test_lvis_form_tells_what_names_and_synonyms_mean(tmp_path, wrapped):
    content = {"categories": LVIS, "images": []} if wrapped else LVIS
    known = Definitions(_written(tmp_path, "a.json", json.dumps(content)))
    assert known.of("Alarm_Clock") == known.of("wake-up clock") == "a clock that rings"
    assert known.of("bat animal") == "a flying mouselike mammal"
    assert known.of("thing") is None


def test_a_json_object_is_from_names_to_definitions(tmp_path):
    known = Definitions(_written(tmp_path, "a.json", '{"dog": "it barks"}'))
    assert known.of("dog") == "it barks"


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table_has_a_name_and_a_definition_a_row(tmp_path, name, mark):
    table = f'dog{mark}"it barks, mostly"\ncat{mark}\nlonely\ndog{mark}a second meaning\n'
    known = Definitions(_written(tmp_path, name, table))
    assert known.of("dog") == "it barks, mostly"
    assert len(known) == 1


def test_wordnets_commonest_sense_is_told_where_its_index_is_there(tmp_path):
    file = _written(tmp_path, "data.noun", DATA)
    alone = Definitions(file)
    assert alone.of("bat") == alone.of("chiropteran") == "nocturnal mouselike mammal"
    _written(tmp_path, "index.noun", INDEX)
    known = Definitions(file)
    assert known.of("bat") == "a club used for hitting a ball"
    assert known.of("alarm clock") == "a clock that wakes a sleeper"
    assert known.fingerprint() != alone.fingerprint()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[]"),
        ("a.json", '{"categories": 5}'),
        ("a.json", "3"),
        ("a.csv", "only names\n"),
        ("a.doc", "x"),
        ("a.txt", "x"),
    ],
)
def test_a_file_without_definitions_is_refused(tmp_path, name, text):
    with pytest.raises(InputError, match=rf"{name}: .*(no definition|no kind)"):
        Definitions(_written(tmp_path, name, text))


def test_a_broken_line_of_wordnet_is_told(tmp_path):
    file = _written(tmp_path, "data.noun", "00001 05 n zz bat 0 | a mammal\n")
    with pytest.raises(InputError, match=r"data\.noun: cannot be read"):
        Definitions(file)


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: cannot be read"):
        Definitions(tmp_path / "absent.csv")


def test_the_definitions_of_lvis_are_all_read(test_data):
    known = Definitions(test_data / "lvis" / "lvis_v1_categories.json")
    assert known.of("aerosol_can") == "a dispenser that holds a substance under pressure"
    assert len(known) >= 1203


@pytest.mark.field
def test_what_is_no_text_defines_nothing(tmp_path):
    rows = [{"name": "dog", "def": 5}, {"name": ["cat"], "def": "it purrs"}, 3]
    rows += [{"name": "owl", "def": "a bird", "synonyms": [5, "night bird", "x \ud83d"]}]
    known = Definitions(_written(tmp_path, "a.json", json.dumps(rows)))
    assert (len(known), known.of("night bird"), known.of("dog")) == (2, "a bird", None)
    rows[3]["synonyms"] = 5
    assert len(Definitions(_written(tmp_path, "a.json", json.dumps(rows)))) == 1
