"""What exists in the mini world and how people speak of it: 288 kinds of object, with captions.

A kind is a colour, a texture and a shape. Most kinds are base categories; the rare ones are of two
sorts, as a detector meets them: new *combinations* of a colour, a texture and a shape that other
categories show all the time, and whole *shapes* that no box ever shows in training.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from gridclip.data.synthetic.painter import COLOURS, SHAPES, TEXTURES, Kind

# Ways to speak of one object and of several.
TEMPLATES = (
    "a {}",
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "a drawing of a {}",
    "there is a {} in the scene",
    "{}",
)
_OPENINGS = (
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "there is {} in the scene",
    "{}",
)
_LINKS = (" and ", " next to ", " with ", ", ")


def caption(rng: np.random.Generator, count: int, phrase: Callable[[int], str]) -> str:
    """Names every object of an image, in any order and in a varied sentence.

    Args:
        rng: Decides the order and the sentence.
        count: How many objects; none gives the caption of an empty scene.
        phrase: What to call the object of a row, without an article.
    """
    if not count:
        return "an empty scene."
    stop = "." if rng.random() < 0.5 else ""
    phrases = [phrase(int(row)) for row in rng.permutation(count)]
    if count == 1:
        return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(phrases[0]) + stop
    link = _LINKS[int(rng.integers(len(_LINKS)))]
    listing = ", ".join(f"a {phrase}" for phrase in phrases[:-1]) + f"{link}a {phrases[-1]}"
    return _OPENINGS[int(rng.integers(len(_OPENINGS)))].format(listing) + stop


KINDS = tuple(
    Kind(colour, texture, shape) for shape in SHAPES for colour in COLOURS for texture in TEXTURES
)
NAMES = tuple(" ".join(kind) for kind in KINDS)  # "red striped star"

_RARE_SHARE = 0.12  # of the objects in training images
_ZIPF_OFFSET = 12  # flattens the head of the long tail

RARE_SHAPES = ("heart", "arrow", "moon")


def _choose_combinations() -> frozenset[Kind]:
    """Chooses twenty-four kinds: in each colour, one of each texture, shapes in turn.

    So every colour, texture and shape of them stays common elsewhere.
    """
    shapes = [shape for shape in SHAPES if shape not in RARE_SHAPES]
    pairs = [(colour, texture) for colour in COLOURS for texture in TEXTURES]
    # A stride without a common factor with the number of shapes keeps the choice from aligning.
    return frozenset(Kind(*pair, shapes[4 * row % 9]) for row, pair in enumerate(pairs))


RARE_COMBINATIONS = _choose_combinations()

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("crimson",),
    "purple": ("violet",),
    "cyan": ("turquoise",),
    "pink": ("rosy",),
    "plain": ("solid",),
    "striped": ("stripy",),
    "dotted": ("spotted",),
    "circle": ("disc",),
    "square": ("box",),
    "cross": ("plus",),
    "diamond": ("rhombus",),
    "ring": ("hoop",),
    "bowl": ("half disc",),
    "arrow": ("pointer",),
    "moon": ("crescent",),
}


def is_base(kind: Kind) -> bool:
    """Returns whether training images box every object of this kind."""
    return kind.shape not in RARE_SHAPES and kind not in RARE_COMBINATIONS


def synonyms(kind: Kind) -> list[str]:
    """Returns the category's name, then every other way to say it that changes a single word."""
    names = [" ".join(kind)]
    for place, word in enumerate(kind):
        names += [
            " ".join([*kind[:place], other, *kind[place + 1 :]]) for other in SYNONYMS.get(word, ())
        ]
    return names


def definition(kind: Kind) -> str:
    """Returns one sentence, as of a dictionary."""
    coat = {"plain": "of one colour", "striped": "with dark stripes", "dotted": "with white dots"}
    return f"a {kind.colour} {kind.shape} {coat[kind.texture]}"


def long_tail(rng: np.random.Generator, count: int) -> Int64[np.ndarray, "count"]:
    """Returns rows of KINDS, shuffled: base kinds by Zipf's law, and a share of rare ones."""
    rare = np.array([row for row, kind in enumerate(KINDS) if not is_base(kind)])
    base = np.array([row for row, kind in enumerate(KINDS) if is_base(kind)])
    base = np.random.default_rng(0).permutation(base)  # who is frequent belongs to the world
    number_rare = round(_RARE_SHARE * count)
    law = np.cumsum(1 / (np.arange(len(base)) + _ZIPF_OFFSET))
    # Each kind in proportion to the law, within one of its share.
    places = (np.arange(count - number_rare) + 0.5) / (count - number_rare)
    drawn = base[np.searchsorted(law / law[-1], places)]
    return rng.permutation(np.concatenate([drawn, _deal_evenly(rng, rare, number_rare)]))


def evenly(rng: np.random.Generator, count: int) -> Int64[np.ndarray, "count"]:
    """Returns rows of KINDS, shuffled, each as often as the next."""
    return rng.permutation(_deal_evenly(rng, np.arange(len(KINDS)), count))


def _deal_evenly(
    rng: np.random.Generator, rows: Int64[np.ndarray, "K"], number: int
) -> Int64[np.ndarray, "number"]:
    """Returns each row as often as the next, give or take one at random."""
    return np.resize(rng.permutation(rows), number)


def describe(rng: np.random.Generator, kinds: Sequence[Kind], *, synonym_rate: float = 0.1) -> str:
    """Returns a caption that names every object, in any order and in varied words.

    Args:
        rng: Decides the order, the template and the words.
        kinds: The objects of the image; none gives the caption of an empty scene.
        synonym_rate: How often a word that has a synonym gives way to it.
    """
    return caption(rng, len(kinds), lambda row: in_words(rng, kinds[row], synonym_rate))


def in_words(rng: np.random.Generator, kind: Kind, synonym_rate: float) -> str:
    """Names a kind, without an article; a synonym replaces a word at this rate."""
    words = [
        SYNONYMS[word][0] if swap and word in SYNONYMS else word
        for word, swap in zip(kind, (rng.random(3) < synonym_rate).tolist(), strict=True)
    ]
    return " ".join(words)
