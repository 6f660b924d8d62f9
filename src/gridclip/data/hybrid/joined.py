"""Several sources of one kind as one, such as the two files of GoldG."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from gridclip.data.hybrid.source import ConceptSample, ConceptSource, Stream
from gridclip.data.sampling import Draw, Pool
from gridclip.errors import InputError


class Joined(ConceptSource):
    """The images of several sources, one after the other.

    Args:
        parts: At least one, of the same batch size and ratio.
    """

    def __init__(self, parts: Sequence[ConceptSource]) -> None:
        self.parts = [*parts]

    @cached_property
    def pool(self) -> Pool:
        """What a sampler draws from."""
        pools = [part.pool for part in self.parts]
        repeats = [
            np.ones(len(pool.sizes)) if pool.repeats is None else pool.repeats for pool in pools
        ]
        return Pool(
            np.concatenate([pool.sizes for pool in pools]),
            pools[0].batch_size,
            None if all(pool.repeats is None for pool in pools) else np.concatenate(repeats),
            pools[0].ratio,
        )

    @cached_property
    def _ends(self) -> list[int]:
        """Where the images of each part end."""
        return np.cumsum([len(part.pool.sizes) for part in self.parts]).tolist()

    def check(self) -> None:
        """Refuse what cannot be read of any."""
        for part in self.parts:
            part.check()

    def names(self) -> list[str]:
        """Every concept with boxes, each once."""
        return [*dict.fromkeys(name for part in self.parts for name in part.names())]

    def state(self) -> dict[str, str | int | float | bool | None]:
        """What decides which images and concepts a step sees, part by part."""
        return {
            f"{row}.{name}": value
            for row, part in enumerate(self.parts)
            for name, value in part.state().items()
        }

    def __getitem__(self, draw: Draw | int) -> ConceptSample:
        """Read and transform one image of the part that has it."""
        draw = draw if isinstance(draw, Draw) else Draw(row=draw, epoch=0)
        part = int(np.searchsorted(self._ends, draw.row, side="right"))
        before = self._ends[part - 1] if part else 0
        return self.parts[part][draw._replace(row=draw.row - before)]


def require_alike(kind: str, settings: Sequence[Stream]) -> None:
    """Refuse sources of one kind that are to be drawn differently.

    Raises:
        InputError: naming the setting.
    """
    for field in ("batch_size", "ratio"):
        values = [getattr(each, field) for each in settings]
        if len(set(values)) > 1:
            raise InputError(
                f"the sources have {', '.join(map(str, values))}, but share their batches",
                field=f"data.{kind}.{field}",
                fix="give all of them the same",
            )
