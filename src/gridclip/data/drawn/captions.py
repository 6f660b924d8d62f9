"""Sentences about pictures of several objects."""

from collections.abc import Callable

import numpy as np

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
    """Name every object of a picture, in any order and in a varied sentence.

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
