"""How much a difference of AP depends on which images were evaluated: a bootstrap over images.

The images of an evaluation are drawn anew, with replacement and as many, again and again (Efron,
1979), and AP is made of each draw by the results by image (io/matches.py). All runs see the same
draws, so what makes an image hard for all of them cancels out of a difference.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gridclip.io.errors import InputError
from gridclip.io.matches import Matches, find_matches, read_matches

LEVEL = 0.95  # of the interval
MOST, FEWEST = 1000, 200  # draws
WORK = 5_000_000  # images of all draws together; of a data set of 20 000 a run takes half a minute
SEED = 0  # the same runs have the same interval
AT_ONCE = 50  # draws; memory grows with them


class Drawn(NamedTuple):
    """What the draws say of a difference.

    Args:
        low: The lower end of the 95 % interval.
        high: Its upper end.
        p: Twice the share of draws on the other side of zero than most, zeros counting as both.
    """

    low: float
    high: float
    p: float


class ImageDraws:
    """Figures of runs over the same draws of images; each run is read and drawn once."""

    def __init__(self) -> None:
        self._runs: dict[Path, tuple[Matches, dict[str, Float[np.ndarray, "B"]]] | None] = {}

    def difference(self, pairs: Sequence[tuple[Path, Path]], metric: str) -> Drawn | None:
        """Returns what the draws say of the mean difference over pairs of runs.

        Args:
            pairs: Folders of finished runs: the baseline's and the other's.
            metric: By name.

        Returns:
            None where a run has no results by image, they are of other images, boxes or another
            protocol, or the metric cannot be made of them.
        """
        found = [(self._of(before), self._of(after)) for before, after in pairs]
        differences = []
        for before, after in found:
            if before is None or after is None or metric not in before[1]:
                return None
            if not (before[0].same_truth(found[0][0][0]) and after[0].same_truth(before[0])):  # type: ignore[index]
                return None
            differences.append(after[1][metric] - before[1][metric])
        return drawn(np.mean(differences, axis=0)) if differences else None

    def _of(self, folder: Path) -> tuple[Matches, dict[str, Float[np.ndarray, "B"]]] | None:
        if folder not in self._runs:
            try:
                matches = read_matches(find_matches(folder))
            except InputError:  # a run of an earlier version has none
                self._runs[folder] = None
            else:
                self._runs[folder] = matches, _figures(matches)
        return self._runs[folder]


def draws(images: int) -> Iterator[Int[np.ndarray, "B I"]]:
    """Yields how often each image is drawn, some draws at a time; the same for each call.

    Args:
        images: How many there are, at least 1.
    """
    rng, left = np.random.default_rng(SEED), count_of(images)
    while left:
        yield rng.multinomial(images, np.full(images, 1 / images), size=min(left, AT_ONCE))
        left -= min(left, AT_ONCE)


def count_of(images: int) -> int:
    """Returns how many draws are made: 1000, fewer of large data sets."""
    return max(FEWEST, min(MOST, WORK // max(images, 1)))


def drawn(differences: Float[np.ndarray, "B"]) -> Drawn | None:
    """Returns interval and p of differences, one a draw.

    Returns:
        None if fewer than half of the draws define it: they have no box of a category, say.
    """
    defined = differences[~np.isnan(differences)]
    if 2 * len(defined) < len(differences) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    return Drawn(low, high, min(1.0, 2 * float(fewer + 1) / (len(defined) + 1)))


def _figures(matches: Matches) -> dict[str, Float[np.ndarray, "B"]]:
    if not len(matches.image_ids):
        return {}
    pieces = [matches.figures(matches.precision(each)) for each in draws(len(matches.image_ids))]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
