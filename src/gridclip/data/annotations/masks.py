"""What an annotation file says of the pixels of its objects, read where a detector asks for it."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from gridclip.data.annotations.table import Ragged
from gridclip.io.json_table import JsonTable
from gridclip.ops.rle import mask_code

_COUNTED = 2**32  # pixels of an image, which a code counts in 32 bits


class Masks(NamedTuple):
    """Codes (`ops.rle`) of all annotations of a file, in its order; empty where none was asked."""

    codes: list[bytes]

    def ordered(self, rows: Int64[np.ndarray, "S"]) -> Ragged:
        """Returns the codes of these annotations end to end: a list of bytes an object."""
        codes = [self.codes[row] for row in rows.tolist()]
        offsets = np.cumsum([0, *map(len, codes)], dtype=np.int64)
        return Ragged(np.frombuffer(b"".join(codes), dtype=np.uint8), offsets)


def read_masks(
    records: JsonTable, sizes: Int64[np.ndarray, "T 2"], wanted: Bool[np.ndarray, "T"]
) -> Masks:
    """Reads the masks of some annotations: polygons, or codes as COCO writes them.

    Args:
        records: All annotations.
        sizes: Height and width of the image of each.
        wanted: Of which the mask is read.

    Raises:
        FaultError: if one is absent, or none.
    """
    codes = [b""] * len(records)
    asked = wanted & (sizes.prod(axis=1, dtype=np.float64) < _COUNTED)
    places = [(height, width) for height, width in sizes.tolist()]

    def read(row: int, given: object) -> None:
        codes[row] = mask_code(given, places[row])

    each_mask(
        records,
        np.flatnonzero(asked).tolist(),
        read,
        "mend or remove these annotations, or learn and evaluate boxes alone (masks: false)",
    )
    return Masks(codes)


def each_mask(
    records: JsonTable, rows: Iterable[int], read: Callable[[int, object], None], fix: str
) -> None:
    """Reads what stands under `segmentation` in some objects.

    Args:
        records: All objects.
        rows: Which are read.
        read: Takes a row and what stands there, None if nothing does; raises a ValueError that says
            what is wrong with it.
        fix: What to do about such.

    Raises:
        FaultError: for the first kind of fault, with all rows that have it.
    """
    problems = {}
    for row in rows:
        try:
            read(row, records.rows[row].get("segmentation"))
        except (ValueError, RecursionError) as error:
            problems[row] = str(error)
    for problem in dict.fromkeys(problems.values()):
        bad = [problems.get(row) == problem for row in range(len(records))]
        records.refuse(bad, "segmentation", f"whose segmentation {problem}", fix=fix)
