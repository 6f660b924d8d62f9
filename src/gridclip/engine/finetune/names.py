"""Which of one's own names a detector knows, and which it knows by another spelling."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

_CLOSE = 0.85  # of letters: "grey cup" and "gray cup", not "cup" and "cap"


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
        for name, others in self.alike.items():
            lines.append(f"{name!r} is new, but spelt much like {', '.join(map(repr, others))}")
        return lines


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
            close = get_close_matches(_plain(name), [*spelt], n=3, cutoff=_CLOSE)
            found = tuple(other for word in close for other in spelt[word])
            alike |= {name: found} if found else {}
    new = tuple(name for name in own if name not in known and name not in alike)
    return OwnNames(known, alike, new)


def _plain(name: str) -> str:
    words = name.casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in words)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", … ({len(names) - 8} more)" if len(names) > 8 else "")
