"""What exists in the mini world and how people speak of it: 288 kinds of object, with captions.

A kind is a colour, a texture and a shape. Most kinds are base categories; the rare ones are of two
sorts, as a detector meets them: new *combinations* of a colour, a texture and a shape that other
categories show all the time, and whole *shapes* that no box ever shows in training.
"""

from collections.abc import Sequence

import numpy as np

from gridclip.data.drawn.captions import caption
from gridclip.data.drawn.drawing import COLOURS, SHAPES, TEXTURES, Kind

KINDS = tuple(
    Kind(colour, texture, shape) for shape in SHAPES for colour in COLOURS for texture in TEXTURES
)
NAMES = tuple(" ".join(kind) for kind in KINDS)  # "red striped star"

RARE_SHAPES = ("heart", "arrow", "moon")


def _choose_combinations() -> frozenset[Kind]:
    """Twenty-four kinds: in each colour, one of each texture, shapes in turn.

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
    """Whether training pictures box every object of this kind."""
    return kind.shape not in RARE_SHAPES and kind not in RARE_COMBINATIONS


def synonyms(kind: Kind) -> list[str]:
    """The category's name, then every other way to say it that changes a single word."""
    names = [" ".join(kind)]
    for place, word in enumerate(kind):
        names += [
            " ".join([*kind[:place], other, *kind[place + 1 :]]) for other in SYNONYMS.get(word, ())
        ]
    return names


def definition(kind: Kind) -> str:
    """One sentence, as a dictionary would put it."""
    coat = {"plain": "of one colour", "striped": "with dark stripes", "dotted": "with white dots"}
    return f"a {kind.colour} {kind.shape} {coat[kind.texture]}"


def describe(rng: np.random.Generator, kinds: Sequence[Kind], *, synonym_rate: float = 0.1) -> str:
    """A caption that names every object, in any order and in varied words.

    Args:
        rng: Decides the order, the template and the words.
        kinds: The objects of the picture; none gives the caption of an empty scene.
        synonym_rate: How often a word that has a synonym gives way to it.
    """
    return caption(rng, len(kinds), lambda row: _phrase(rng, kinds[row], synonym_rate))


def _phrase(rng: np.random.Generator, kind: Kind, synonym_rate: float) -> str:
    words = [
        SYNONYMS[word][0] if swap and word in SYNONYMS else word
        for word, swap in zip(kind, (rng.random(3) < synonym_rate).tolist(), strict=True)
    ]
    return " ".join(words)
