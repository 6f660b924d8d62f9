"""Concept pools: counted against naive loops, written, and read again."""

import csv
import json
from collections import Counter

import pytest

from gridclip.cli import main
from gridclip.data.category_names import Concept, read_concepts, read_names
from gridclip.data.datasets.concept_pool import concepts_command
from gridclip.data.datasets.noun_phrases import Phrases
from gridclip.data.images.pack import pack_command
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.io.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mini"
    make_mini(folder, seed=2, train_images=30, val_images=2, size=64)
    return folder


def captions(root):
    lines = (root / "hybrid" / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line)["caption"] for line in lines]


def counted(root):
    parser = Phrases("textblob")
    return Counter(phrase for caption in captions(root) for phrase in parser.of(caption))


def test_phrases_of_captions_are_counted_once_a_caption(root, tmp_path):
    concepts_command([root / "hybrid" / "pairs.jsonl"], output=tmp_path / "pool.txt")
    pool = read_concepts(tmp_path / "pool.txt")
    assert {each.name: each.times for each in pool} == counted(root)
    assert pool == sorted(pool, key=lambda each: (-each.times, each.name))
    assert read_names(tmp_path / "pool.txt").names == tuple(each.name for each in pool)


def test_a_folder_and_its_shards_give_the_same_pool(root, tmp_path):
    pack_command(root / "hybrid" / "pairs.jsonl", tmp_path / "packed")
    concepts_command([root / "hybrid" / "pairs.jsonl"], output=tmp_path / "one.txt")
    concepts_command([tmp_path / "packed"], output=tmp_path / "two.txt")
    assert (tmp_path / "one.txt").read_bytes() == (tmp_path / "two.txt").read_bytes()


def test_seldom_phrases_are_left_out_but_names_stay(root, tmp_path):
    sources = [root / "train.json", root / "hybrid" / "pairs.jsonl"]
    concepts_command(sources, output=tmp_path / "pool.csv", min_count=6)
    content = json.loads((root / "train.json").read_text())
    names = {each["name"]: each for each in content["categories"]}
    phrases = counted(root)
    expected = {name: row["image_count"] + phrases[name] for name, row in names.items()}
    expected |= {name: n for name, n in phrases.items() if n >= 6 and name not in names}
    pool = read_concepts(tmp_path / "pool.csv")
    assert {each.name: each.times for each in pool} == expected
    assert {each.name: each.definition for each in pool if each.name in names} == {
        name: row["def"] for name, row in names.items()
    }


def test_phrases_with_boxes_are_counted_once_a_box(root, tmp_path):
    file = root / "hybrid" / "grounding.json"
    concepts_command([file], output=tmp_path / "pool.txt")
    content = json.loads(file.read_text())
    said = {each["id"]: each["caption"] for each in content["images"]}
    expected = Counter(
        said[each["image_id"]][slice(*each["tokens_positive"][0])]
        for each in content["annotations"]
    )
    assert {each.name: each.times for each in read_concepts(tmp_path / "pool.txt")} == expected


def test_spellings_of_one_concept_are_one_as_the_first_has_it(tmp_path):
    (tmp_path / "first.json").write_text(json.dumps(["Alarm_clock", "dog"]))
    (tmp_path / "second.txt").write_text("alarm clock\t7\nDOG\ncat\t2\n")
    (tmp_path / "said.csv").write_text('name,definition\nalarm clock,"it rings, loudly"\nbee,x\n')
    sources = [tmp_path / "first.json", tmp_path / "second.txt"]
    concepts_command(
        sources, output=tmp_path / "pool.csv", min_count=99, definitions=tmp_path / "said.csv"
    )
    assert read_concepts(tmp_path / "pool.csv") == [
        Concept("Alarm_clock", 7, "it rings, loudly"),
        Concept("cat", 2),
        Concept("dog", 0),
    ]


def test_the_command_takes_several_sources(root, tmp_path):
    (tmp_path / "names.txt").write_text("tricycle\n")
    out = tmp_path / "pool.csv"
    sources = [str(root / "hybrid" / "grounding.json"), str(tmp_path / "names.txt")]
    main(["data", "concepts", *sources, f"--output={out}", "--min_count=3"])
    rows = [*csv.DictReader(out.open())]
    assert [*rows[0]] == ["name", "definition", "count"]
    assert {"name": "tricycle", "definition": "", "count": "0"} in rows
    assert all(int(row["count"]) >= 3 for row in rows if row["name"] != "tricycle")


@pytest.mark.parametrize(
    ("names", "given", "told"),
    [
        ("dog\n", {"output": "pool.json"}, "output: is neither .txt nor .csv"),
        ("dog\n", {"parser": "nltk"}, "parser: there is no parser"),
        ("\n", {}, "min_count: no concept is left"),
    ],
)
def test_what_makes_no_pool_is_refused_and_nothing_is_written(tmp_path, names, given, told):
    (tmp_path / "names.txt").write_text(names)
    settings = {"output": "pool.txt", **given}
    output = tmp_path / settings.pop("output")
    with pytest.raises(InputError, match=told):
        concepts_command([tmp_path / "names.txt"], output=output, **settings)
    assert not output.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dog,cat\n", r"line 1: has no column 'name', only dog, cat"),
        ("name,count\ndog,many\n", r"line 2: the count 'many' is no whole number"),
        ("name,count\n,3\n", r"line 2: lacks a name"),
        ("", r"line 1: has no column 'name', only nothing"),
    ],
)
def test_a_csv_of_another_form_is_told_with_its_line(tmp_path, text, told):
    file = tmp_path / "names.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=told):
        read_names(file)


def test_lists_of_names_are_read_with_what_they_say(tmp_path):
    text, table = tmp_path / "names.txt", tmp_path / "names.csv"
    text.write_text("dog\t12\nhot dog\n  cat \tseven\n\n")
    assert read_concepts(text) == [Concept("dog", 12), Concept("hot dog"), Concept("cat")]
    table.write_text('count,name,more\n4,"dog, hot",x\n,cat,y\n')
    assert read_concepts(table) == [Concept("dog, hot", 4), Concept("cat")]
    listed = tmp_path / "names.json"
    rows = [{"id": 2, "name": "cat", "def": " it purrs "}, {"id": 1, "name": "dog"}]
    listed.write_text(json.dumps({"categories": rows}))
    assert read_concepts(listed) == [Concept("dog"), Concept("cat", None, "it purrs")]
