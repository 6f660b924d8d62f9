"""Noun phrases of captions: what a sentence says stands in its image."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from gridclip.io.errors import InputError, needing

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_KEPT = 100_000  # texts whose words or phrases a process remembers

# Words that open a phrase and say nothing of what it shows.
_OPENERS = frozenset(
    _WORD.findall(
        "a an the this that these those some any each every another other both all several many "
        "few various my your his her its our their one two three four five six seven eight nine ten"
    )
)
# Words that stand for something said elsewhere.
_PRONOUNS = frozenset(
    _WORD.findall(
        "i you he she it we they me him us them himself herself itself themselves who whom what "
        "which someone something somebody anyone anything everyone everything nobody nothing there "
        "here others"
    )
)
# Words for the image, not for what is in it.
_MEDIA = frozenset(_WORD.findall("photo photograph picture image drawing painting view shot scene"))

_COLOURS = frozenset(
    _WORD.findall(
        "red orange yellow green blue purple violet pink cyan turquoise brown black white grey "
        "gray beige tan crimson maroon golden silver teal"
    )
)


class Tagged(NamedTuple):
    """One word and its part of speech, by the tags of the Penn Treebank."""

    word: str
    tag: str


class PhraseParser(ABC):
    """Finds noun phrases; the same in every process."""

    @abstractmethod
    def find(self, caption: str) -> Iterable[str]:
        """Returns the noun phrases as they stand there, in order, to be cleaned."""


class Phrases:
    """The cleaned noun phrases of captions; what was asked lately is remembered.

    Args:
        parser: `textblob` (of the extra captions; no download is needed), or `spacy:MODEL` for a
            model that you have installed, such as spacy:en_core_web_sm.

    Raises:
        InputError: if there is no such parser, or it is not installed.
    """

    def __init__(self, parser: str) -> None:
        self.parser = parser
        self._parser = _make_parser(parser)
        self._of = lru_cache(_KEPT)(self._find)

    def __reduce__(self) -> tuple[Callable[..., "Phrases"], tuple[str]]:
        return Phrases, (self.parser,)

    def of(self, caption: str) -> tuple[str, ...]:
        """Returns the distinct phrases of a caption, in order of their first mention."""
        return self._of(caption)

    def _find(self, caption: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, map(clean, self._parser.find(caption)))))


def words(text: str) -> tuple[str, ...]:
    """Returns the words in lower case: those of "Bat_(animal)" are bat and animal."""
    return tuple(_WORD.findall(text.lower()))


@lru_cache(_KEPT)
def word_set(text: str) -> frozenset[str]:
    """Returns the words of a text, to ask whether another text has all of them."""
    return frozenset(words(text))


def clean(phrase: str) -> str:
    """Returns a noun phrase in the form in which concepts are compared; empty if it names nothing.

    In lower case, words apart by one space, punctuation left out but for hyphens and apostrophes
    within words; determiners, possessives and small numbers at its beginning are dropped.
    Pronouns, words for the image itself ("photo", "view"), and phrases without a letter name
    nothing.
    """
    said = list(words(phrase))
    while said and said[0] in _OPENERS:
        del said[0]
    if not said or (len(said) == 1 and said[0] in _PRONOUNS | _MEDIA):
        return ""
    return " ".join(said) if any(letter.isalpha() for letter in "".join(said)) else ""


class TextBlobParser(PhraseParser):
    """A small grammar over the tags of textblob's parser, which needs no corpora.

    A phrase is a run of modifiers and nouns that ends in a noun. Modifiers are adjectives, also
    two with "and" between them, and, behind a determiner or another modifier, participles: "a
    parked car", but not "man riding horse".

    The tagger's faults pass through; three are mended. It takes many verbs for plurals ("man rides
    a horse": rides/NNS). Where such a word follows a noun, is the -s form of a word that its
    lexicon knows as a verb, and a determiner, possessive or adverb follows, the phrase ends before
    it. What follows a determiner and adjectives is a noun, even if the tag is a verb's ("a plain
    cross"). Colours that it takes for nouns are modifiers.
    """

    def __init__(self) -> None:
        with needing("captions"):
            from textblob.en import parse, parser

        self._parse, self._lexicon = parse, parser.lexicon
        parse("a dog")  # which reads the lexicon: once, before processes are forked

    def find(self, caption: str) -> Iterable[str]:
        """Returns the runs of modifiers and nouns."""
        for sentence in self._tag(caption):
            yield from self._runs(sentence)

    def _tag(self, caption: str) -> Iterator[list[Tagged]]:
        # The parser's own separator would be taken for one.
        parsed = self._parse(caption.replace("/", " "), tokenize=True, tags=True, chunks=False)
        for line in str(parsed).split("\n"):
            pairs = (token.split("/")[:2] for token in line.split())
            tagged = [Tagged(*pair) for pair in pairs if len(pair) == 2]
            yield [*map(_mend_colour, tagged, [*tagged[1:], Tagged(".", ".")])]

    def _runs(self, sentence: list[Tagged]) -> Iterator[str]:
        run: list[Tagged] = []
        opened = False  # by a determiner, possessive or number
        for place, each in enumerate(sentence):
            following = sentence[place + 1].tag if place + 1 < len(sentence) else "."
            if opened and run and run[-1].tag[:2] != "NN" and each.tag in ("VB", "VBP", "VBZ"):
                each = Tagged(each.word, "NN")
            if self._joins(run, each, following, opened=opened):
                run.append(each)
                continue
            yield _nouns(run)
            opened = each.tag in ("DT", "PRP$", "CD", "POS")
            run = [each] if each.tag[:2] in ("JJ", "NN") and not self._is_verb(run, each) else []
        yield _nouns(run)

    def _joins(self, run: list[Tagged], each: Tagged, following: str, *, opened: bool) -> bool:
        """Returns whether a word continues a run, or begins the first one after a determiner."""
        tag = each.tag
        if tag[:2] == "NN":
            return not (self._is_verb(run, each) and following in ("DT", "PRP$", "RB", "RP"))
        if run and run[-1].tag[:2] == "NN":
            return False
        if tag in ("VBN", "VBG") or (tag == "VBD" and following[:2] in ("NN", "VB")):
            return opened or bool(run)
        return tag[:2] == "JJ" or (each.word == "and" and bool(run) and following[:2] == "JJ")

    def _is_verb(self, run: list[Tagged], each: Tagged) -> bool:
        """Returns whether a word tagged as a plural may be a verb."""
        if each.tag != "NNS" or not run or run[-1].tag not in ("NN", "NNP"):
            return False
        stem = each.word.lower().removesuffix("s")
        return any(str(self._lexicon.get(form, "")).startswith("VB") for form in _stems(stem))


class SpacyParser(PhraseParser):
    """spaCy's noun chunks.

    Args:
        model: An installed model.

    Raises:
        InputError: if spaCy or the model is not installed.
    """

    def __init__(self, model: str) -> None:
        try:
            import spacy

            self._read: Any = spacy.load(model)
        except (ImportError, OSError) as error:
            raise InputError(
                f"spaCy or its model {model!r} is not installed ({error})",
                field="parser",
                fix=f"pip install spacy && python -m spacy download {model}; or take textblob",
            ) from error

    def find(self, caption: str) -> Iterable[str]:
        """Returns its noun chunks."""
        return [chunk.text for chunk in self._read(caption).noun_chunks]


def check_parser(parser: str) -> None:
    """Refuses the name of a parser that does not exist, without loading one.

    Raises:
        InputError: naming those that there are.
    """
    kind, _, model = parser.partition(":")
    # A path, unlike the name of a package, could be anyone's.
    if parser != "textblob" and (kind != "spacy" or not model.isidentifier()):
        raise InputError(
            f"there is no parser {parser!r}",
            field="parser",
            fix="give textblob, or spacy:MODEL such as spacy:en_core_web_sm",
        )


def _make_parser(parser: str) -> PhraseParser:
    check_parser(parser)
    return TextBlobParser() if parser == "textblob" else SpacyParser(parser.partition(":")[2])


def _mend_colour(each: Tagged, following: Tagged) -> Tagged:
    """Tags a colour before another word that may belong to its phrase as a modifier."""
    modifies = each.word.lower() in _COLOURS and following.tag[:2] in ("JJ", "NN", "VB")
    return Tagged(each.word, "JJ") if modifies else each


def _nouns(run: list[Tagged]) -> str:
    """Returns a run as text, if it ends in a noun."""
    return " ".join(each.word for each in run) if run and run[-1].tag[:2] == "NN" else ""


def _stems(stem: str) -> tuple[str, ...]:
    """Returns verbs whose third person, without its -s, may be this: ride, watch, carry."""
    return (stem, stem.removesuffix("e"), f"{stem.removesuffix('ie')}y")
