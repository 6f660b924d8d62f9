"""Which of one's own names a detector knows, and which it knows by another spelling."""

from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import NamedTuple

_CLOSE = 0.85  # of the letters of a name
_CLOSE_WORDS = 0.75  # of those of each of its words: "grey" and "gray", not "cup" and "cap"
_TOLD = 8  # of a kind, before the rest are counted


class OwnNames(NamedTuple):
    """One's own names beside those that a detector was trained on.

    Args:
        known: Trained on before, by this very name.
        alike: Others, with the trained names that are spelt much like them.
        new: The rest.
    """

    known: tuple[str, ...]
    alike: dict[str, tuple[str, ...]]
    new: tuple[str, ...]

    def told(self) -> list[str]:
        """What a person should know before it begins, a line each."""
        lines = [f"{len(self.known)} names known before: {_some(self.known)}"] if self.known else []
        lines += [f"{len(self.new)} new names: {_some(self.new)}"] if self.new else []
        for name, others in [*self.alike.items()][:_TOLD]:
            lines.append(f"{name!r} is new, but spelt much like {', '.join(map(repr, others))}")
        more = len(self.alike) - _TOLD
        return lines + ([f"and so are {more} others"] if more > 0 else [])


def compare_names(own: Sequence[str], trained: Sequence[str]) -> OwnNames:
    """Returns what is known, new, or known by another spelling.

    Case, underscores, hyphens and a plural's s count as spelling.
    """
    spelt: dict[str, list[str]] = {}
    for name in trained:
        spelt.setdefault(_plain(name), []).append(name)
    known = tuple(name for name in own if name in {*trained})
    alike: dict[str, tuple[str, ...]] = {}
    for name in own:
        if name not in known:
            plain = _plain(name)
            close = get_close_matches(plain, [*spelt], n=20, cutoff=_CLOSE)
            close = [other for other in close if _word_by_word(plain, other)][:3]
            found = tuple(each for other in close for each in spelt[other])
            alike |= {name: found} if found else {}
    new = tuple(name for name in own if name not in known and name not in alike)
    return OwnNames(known, alike, new)


def _word_by_word(name: str, other: str) -> bool:
    """Whether each word is spelt much like its partner: long names may differ in one word alone."""
    pairs = [*zip(name.split(), other.split(), strict=False)]
    same = len(name.split()) == len(other.split())
    return same and all(SequenceMatcher(None, *pair).ratio() >= _CLOSE_WORDS for pair in pairs)


def _plain(name: str) -> str:
    words = name.casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _TOLD
    return ", ".join(names[:_TOLD]) + (f", … ({more} more)" if more > 0 else "")
