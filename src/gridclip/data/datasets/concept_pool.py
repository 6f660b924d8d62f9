"""Concept pools and dictionaries: the concepts of captions, phrases and categories, counted."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.reader import read_annotations
from gridclip.data.category_names import Concept, Definitions, read_concepts
from gridclip.data.datasets.grounding import read_grounding
from gridclip.data.datasets.noun_phrases import Phrases, words
from gridclip.data.images.sources import CAPTIONS, open_images
from gridclip.data.vocabulary import image_counts
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import require_writable, write_text
from gridclip.io.json_table import read_content
from gridclip.io.tables import make_console, say
from gridclip.io.text import ending, read_lines

_ENDINGS = (".txt", ".csv")
_CAPTIONS_HEAD = ["image", "caption"]


def concepts_command(
    sources: list[Path],
    *,
    output: Path,
    min_count: int = 1,
    parser: str = "textblob",
    definitions: Path | None = None,
) -> None:
    """Write the concepts of one or several sources, the most frequent first.

    A source is: captioned images in any form that training takes (noun phrases, counted once a
    caption); a grounding file (phrases, counted once a box); an annotation file of LVIS or COCO
    form (category names, counted once an image); or a list of names (.txt, .csv, .json). Concepts
    that differ in case or punctuation alone are one, as the first source spells it.

    Args:
        sources: Files or folders.
        output: A .txt (a concept, a tab and its count on each line) or a .csv (name,
            definition, count).
        min_count: Phrases that were met less often are left out; category names and listed names
            always stay.
        parser: Of noun phrases: textblob, or spacy:MODEL for a model that you have installed.
        definitions: Where to look up what has none: a file of LVIS form, a .csv of names and
            definitions, or WordNet's data.noun.

    Raises:
        InputError: if a source is absent or wrong, or nothing is left.
    """
    if ending(output) not in _ENDINGS:
        raise InputError("is neither .txt nor .csv", file=output, field="output", fix="name it so")
    require_writable(output)
    require_at_least(1, min_count=min_count)
    pool = ConceptCounts()
    phrases = Phrases(parser)
    for source in sources:
        listed, found = concepts_of(source, phrases)
        pool.add(found, listed=listed)
    if definitions is not None:
        pool.define(Definitions(definitions).of)
    kept = pool.kept(min_count)
    if not kept:
        fix = "lower min_count, or give other sources"
        raise InputError("no concept is left", fix=fix, field="min_count")
    write_concepts(output, kept)
    say(make_console(), f"{output}: {len(kept)} concepts of {len(pool)}")


class ConceptCounts:
    """Concepts of several sources, each once."""

    def __init__(self) -> None:
        self._concepts: dict[str, Concept] = {}
        self._listed: set[str] = set()  # those that stay however rare they are

    def __len__(self) -> int:
        return len(self._concepts)

    def add(self, concepts: Iterable[Concept], *, listed: bool) -> None:
        """Counts concepts; of one that is known, the first name and definition stay."""
        for each in concepts:
            key = _key(each.name)
            known = self._concepts.get(key, Concept(each.name, 0))
            times = (known.times or 0) + (each.times or 0)
            definition = known.definition or each.definition
            self._concepts[key] = Concept(known.name, times, definition)
            if listed:
                self._listed.add(key)

    def define(self, find: Callable[[str], str | None]) -> None:
        """Adds definitions to concepts that have none."""
        for key, each in self._concepts.items():
            definition = each.definition or find(each.name) or ""
            self._concepts[key] = each._replace(definition=definition)

    def kept(self, min_count: int) -> list[Concept]:
        """Returns what is listed or frequent enough, the most frequent first, then by name."""
        kept = [
            each
            for key, each in self._concepts.items()
            if key in self._listed or (each.times or 0) >= min_count
        ]
        return sorted(kept, key=lambda each: (-(each.times or 0), each.name))


def concepts_of(source: Path, phrases: Phrases) -> tuple[bool, Iterator[Concept]]:
    """Reads the concepts of one source of any kind that `concepts_command` takes.

    Returns:
        Whether they are names that somebody chose, and not phrases as they come; and the concepts.

    Raises:
        InputError: if it is absent or wrong.
    """
    if ending(source) == ".json":
        return _of_json(source)
    if ending(source) in _ENDINGS and not _has_captions(source):
        return True, iter(read_concepts(source))
    return False, _of_captions(source, phrases)


def write_concepts(file: Path, concepts: Iterable[Concept]) -> None:
    """Writes concepts in the form of the ending of the file, whole or not at all."""
    text = io.StringIO()
    if ending(file) == ".csv":
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["name", "definition", "count"])
        lines.writerows([each.name, each.definition, each.times] for each in concepts)
    else:
        text.writelines(f"{each.name}\t{each.times}\n" for each in concepts)
    write_text(file, text.getvalue())


def _of_json(source: Path) -> tuple[bool, Iterator[Concept]]:
    content = read_content(source)
    if content.lstrip()[:1] == b"[":
        return True, iter(read_concepts(source))
    images = parse_lists(source, content).images
    if isinstance(images, list) and any("caption" in each for each in images):
        annotations, _ = read_grounding(source)
        counts = np.bincount(annotations.labels.values, minlength=len(annotations.categories))
        pairs = zip(annotations.categories, counts.tolist(), strict=True)
        return False, (Concept(category.name, count) for category, count in pairs)
    annotations = read_annotations(source)
    counts = image_counts(annotations.labels, len(annotations.categories))
    defined = {each.name: each for each in read_concepts(source)}
    pairs = zip(annotations.categories, counts.tolist(), strict=True)
    return True, (
        Concept(each.name, each.image_count or count, defined[each.name].definition)
        for each, count in pairs
    )


def _has_captions(file: Path) -> bool:
    """Returns whether a file has captions, not names, by its first line."""
    if file.name.lower() in CAPTIONS:
        return True
    return [word.strip() for word in "".join(read_lines(file)[:1]).split(",")] == _CAPTIONS_HEAD


def _of_captions(source: Path, phrases: Phrases) -> Iterator[Concept]:
    images = open_images(source)
    for row in range(len(images)):
        listed = images.image(row)
        for caption in listed.captions:
            yield from (Concept(phrase, 1) for phrase in phrases.of(caption))
        if not listed.captions:
            yield from (Concept(name, 1) for name in listed.names)


def _key(name: str) -> str:
    return " ".join(words(name)) or name
