"""How the names of categories are said, and which of them may mean the same thing."""

import re

import numpy as np
from jaxtyping import Int64

from gridclip.clip.text import prompt_name
from gridclip.data.drawn.captions import caption
from gridclip.data.drawn.sprites import SpriteCategory

_SYNONYM_RATE = 0.1  # how often a caption says a synonym


def describe(rng: np.random.Generator, categories: list[SpriteCategory]) -> str:
    """A caption that names every object, now and then by a synonym."""

    def phrase(row: int) -> str:
        ways = [categories[row].name, *categories[row].synonyms()]
        swap = rng.random() < _SYNONYM_RATE
        return prompt_name(ways[int(rng.integers(len(ways))) if swap else 0])

    return caption(rng, len(categories), phrase)


class Verified:
    """Which names a scene is known not to show.

    Names that end in the same word (bottle, wine_bottle) are never listed against one another: the
    drawing of the one may well be called the other.

    Args:
        categories: All that there are.
        number: How many to list for a scene.
    """

    def __init__(self, categories: tuple[SpriteCategory, ...], number: int) -> None:
        self.ids: Int64[np.ndarray, "C"] = np.array([category.id for category in categories])
        self.last_words = [
            {_last_word(name) for name in (category.name, *category.synonyms())}
            for category in categories
        ]
        self.number = number

    def absent(self, rng: np.random.Generator, rows: list[int]) -> list[int]:
        """Ids, ascending, of some names that are not on a scene of these rows of the categories."""
        near = set().union(*(self.last_words[row] for row in rows))
        free = [row for row, words in enumerate(self.last_words) if not words & near]
        chosen = rng.permutation(free)[: self.number].astype(np.int64)
        return sorted(self.ids[chosen].tolist())


def _last_word(name: str) -> str:
    """The last word outside parentheses: that of bat_(animal) is bat."""
    words = re.sub(r"\(.*?\)", " ", name).replace("_", " ").split()
    return words[-1].lower() if words else name
