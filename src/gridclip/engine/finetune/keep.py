"""What a fine-tuning keeps the old names by: words of `--keep`, and the settings they stand for."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from gridclip.io.errors import InputError
from gridclip.models.base import Detector

Way = Literal["nothing", "replay", "pseudo", "distillation", "residual", "head", "prompt"]

WAYS: tuple[Way, ...] = get_args(Way)
_DATA = frozenset[Way](("replay", "pseudo"))  # of what is trained on; the others are of the model
_ALONE = frozenset[Way](("nothing", "prompt"))
_RATE = {"prompt": 3.0}  # a vector goes far, and nothing else can be spoilt
_DISTILLED = {"embeddings": 1.0, "boxes": 1.0}


@dataclass(frozen=True)
class Keep:
    """Ways of keeping, together.

    Args:
        ways: At least one, each once.
    """

    ways: tuple[Way, ...]

    @property
    def rate(self) -> float:
        """Learning rate, as a share of that of the run, where none is given."""
        return max(_RATE.get(way, 0.1) for way in self.ways)

    def has(self, way: Way) -> bool:
        """Whether a way is among them."""
        return way in self.ways

    def settings(self, detector: Detector, names: Sequence[str]) -> dict[str, Any]:
        """Returns arguments of the detector, beside those of the run.

        Args:
            detector: Of the run.
            names: One's own.

        Raises:
            InputError: if its class has none for one of the ways.
        """
        settings: dict[str, Any] = {}
        if self.has("prompt"):
            settings["prompt"] = {"names": [*names]}
        if keeping := self._keeping():
            settings["keeping"] = keeping
        known = inspect.signature(type(detector)).parameters
        if not settings.keys() <= known.keys():
            asked = ", ".join(way for way in self.ways if way not in _DATA)
            raise InputError(
                f"{type(detector).__name__} has no setting for: {asked}",
                field="--keep",
                fix="take replay and pseudo, which are of the data and go with any detector",
            )
        return settings

    def _keeping(self) -> dict[str, Any]:
        learns = [{"learns": way} for way in self.ways if way in ("head", "residual")]
        settings: dict[str, Any] = learns[0] if learns else {}
        return settings | (_DISTILLED if self.has("distillation") else {})


def read_keep(words: str) -> Keep:
    """Returns the ways that words joined by commas name.

    Raises:
        InputError: if a word is none of `WAYS`, or two do not go together.
    """
    ways = [*dict.fromkeys(word.strip() for word in words.split(","))]
    for word in ways:
        if word not in WAYS:
            raise InputError(
                f"{word!r} is no way of keeping", field="--keep", fix=f"take of: {', '.join(WAYS)}"
            )
    for way in _ALONE & {*ways}:
        if len(ways) > 1:
            why = "keeps nothing" if way == "nothing" else "lets the network rest anyway"
            raise InputError(f"{way!r} {why}", field="--keep", fix="leave it or the others out")
    if {"head", "residual"} <= {*ways}:
        problem = "'head' trains the whole head, 'residual' its two last projections alone"
        raise InputError(problem, field="--keep", fix="leave one of them out")
    return Keep(cast(tuple[Way, ...], tuple(ways)))
