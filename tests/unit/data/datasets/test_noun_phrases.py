"""Noun phrases of captions, and how they are cleaned."""

import json
import pickle
import sys

import pytest

from gridclip.data.datasets.noun_phrases import Phrases, check_parser, clean, words
from gridclip.data.synthetic.mini_world import KINDS
from gridclip.io.errors import InputError


@pytest.fixture(scope="module")
def phrases():
    return Phrases("textblob")


# By hand; the sentences are made up for what a grammar over tags can get wrong.
SENTENCES = {
    "A man rides a horse next to two dogs .": ["man", "horse", "dogs"],
    "traffic lights in the street": ["traffic lights", "street"],
    "Man riding horse near a parked car": ["man", "horse", "parked car"],
    "a black and white dog and a man": ["black and white dog", "man"],
    "a woman's red bag on her old wooden table": ["woman", "red bag", "old wooden table"],
    "Two young guys look at their hands while hanging out": ["young guys", "hands"],
    "there is a green dotted heart in the scene.": ["green dotted heart"],
    "a photo of a violet striped cross": ["violet striped cross"],
    "a drawing of a cyan dotted ring, a turquoise spotted half disc": [
        "cyan dotted ring",
        "turquoise spotted half disc",
    ],
    "the dog and the dog and/or the cat": ["dog", "cat"],
    "she looks at him": [],
    "": [],
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_phrases_of_a_sentence_are_those_a_reader_would_find(phrases, sentence):
    assert list(phrases.of(sentence)) == SENTENCES[sentence]


def test_the_mini_world_is_understood_but_for_a_synonym(phrases):
    """`plus`, which the tagger takes for a conjunction, is what the fault list of the docs says."""
    for kind in KINDS:
        name = " ".join(kind)
        assert phrases.of(f"a photo of a {name} next to a red plain circle.")[0] == name


@pytest.mark.parametrize(
    ("phrase", "cleaned"),
    [
        ("The  Red Bus,", "red bus"),
        ("two of", "of"),
        ("his father-in-law's hat", "father-in-law's hat"),
        ("a photo", ""),
        ("the photo frame", "photo frame"),
        ("them", ""),
        ("the", ""),
        ("42", ""),
        ("Bat_(animal)", "bat animal"),
        ("«Über» Café", "über café"),
    ],
)
def test_cleaning_leaves_what_names_something(phrase, cleaned):
    assert clean(phrase) == cleaned


def test_cleaning_twice_changes_nothing(phrases):
    for sentence in SENTENCES:
        for phrase in phrases.of(sentence):
            assert clean(phrase) == phrase
            assert words(phrase) == tuple(phrase.split())


def test_a_parser_travels_to_other_processes_by_its_name(phrases):
    copy = pickle.loads(pickle.dumps(phrases))
    assert copy.of("a dog on a rug") == phrases.of("a dog on a rug") == ("dog", "rug")
    assert len(pickle.dumps(phrases)) < 200


@pytest.mark.parametrize("parser", ["", "nltk", "spacy", "spacy:", "textblob:en"])
def test_a_parser_that_there_is_not_is_refused(parser):
    with pytest.raises(InputError, match=r"parser.*\n.*textblob, or spacy:MODEL"):
        check_parser(parser)


def test_a_spacy_that_is_not_installed_is_told_with_the_commands(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match=r"spacy download en_core_web_sm"):
        Phrases("spacy:en_core_web_sm")


def test_spacys_noun_chunks_are_cleaned_likewise(monkeypatch):
    """Its interface, as its documentation has it; the package itself is not a dependency."""

    class Chunk:
        def __init__(self, text):
            self.text = text

    class Doc:
        def __init__(self, text):
            self.noun_chunks = [Chunk(part) for part in text.split(" on ")]

    class Module:
        @staticmethod
        def load(model):
            assert model == "tiny"
            return Doc

    monkeypatch.setitem(sys.modules, "spacy", Module)
    assert Phrases("spacy:tiny").of("A Dog on the mat on it") == ("dog", "mat")


def test_real_captions_have_phrases(phrases, test_data):
    lines = (test_data / "flickr8k_1000" / "captions.txt").read_text().splitlines()[1:400]
    found = [phrases.of(line.partition(",")[2]) for line in lines]
    assert sum(map(bool, found)) > 0.98 * len(found)
    assert json.dumps(found).isascii()
    every = [phrase for each in found for phrase in each]
    assert 2 < len(every) / len(found) < 5
    assert sum(len(phrase.split()) for phrase in every) / len(every) < 2.5
