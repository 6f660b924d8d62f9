"""What a frozen CLIP predicts for images without boxes: scores of categories and embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float16, Float32, Int32, Int64

from gridclip.io.column_store import ColumnarFile, text_columns, write_columnar
from gridclip.io.errors import InputError, require_at_least, require_fraction, require_positive
from gridclip.structures import Vocabulary

FORM = "gridclip pseudo-labels 1"
REMEDY = "make it with gridclip data pseudo-label"
_IMAGES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which names of an image become pseudo-labels.

    The score of a name is the softmax over all names of the vocabulary of cosine / temperature, as
    in CLIP's zero-shot classification (2103.00020, section 3.1.2).

    Args:
        threshold: Names below this score are dropped.
        top_k: At most so many names an image, the best.
        temperature: The lower, the surer the best name. 0.01 is what CLIP's training ends at.
    """

    threshold: float = 0.1
    top_k: int = 5
    temperature: float = 0.01

    def __post_init__(self) -> None:
        require_fraction(threshold=self.threshold)
        require_at_least(1, top_k=self.top_k)
        require_positive(temperature=self.temperature)


class Recipe(NamedTuple):
    """What pseudo-labels depend on."""

    vocabulary: Vocabulary
    keep: Keep  # the default of whoever reads them
    stored: int  # names that are stored for each image: the largest top_k that can be asked for
    origin: dict[str, str]  # fingerprints of teacher, text and source


class PseudoLabels:
    """A file of pseudo-labels of I images for K names; another `Keep` needs no teacher.

    The file holds unit vectors of images (plain and mirrored, float16) and names (float32), and for
    each image its best names with their cosines, which do not depend on the temperature. What does,
    the softmax's denominator, is stored for one temperature and computed for others. Cosines are
    of the rounded vectors, so the file agrees with itself; rounding costs a cosine less than 1e-3.
    Memory-mapped, and it pickles as its name.

    Args:
        file: What `gridclip data pseudo-label` wrote.

    Attributes:
        recipe: What they depend on, the K names among it.
        sizes: Height and width of each image.

    Raises:
        InputError: if it is absent, cut short, or another kind of file.
    """

    def __init__(self, file: str | Path) -> None:
        self._columns = ColumnarFile(Path(file), FORM, REMEDY)
        self.file, header = self._columns.file, self._columns.header
        column = self._columns.column
        self.sizes: Int64[np.ndarray, "I 2"] = column("sizes", "I 2", "i")
        self._best: Int32[np.ndarray, "I S"] = column("best", "I S", "i")
        self._cosines: Float32[np.ndarray, "I S"] = column("cosines", "I S", "f")
        self._log_sums: Float32[np.ndarray, I] = column("log_sums", "I", "f")
        self._images: Float16[np.ndarray, "I 2 E"] = column("embeddings", "I 2 E", "f")
        self._texts: Float32[np.ndarray, "K E"] = column("texts", "K E", "f")
        self.recipe = Recipe(
            vocabulary=Vocabulary(self._columns.texts("names", "K").all()),
            keep=Keep(
                threshold=header.number("threshold"),
                top_k=int(header.number("top_k")),
                temperature=header.number("temperature"),
            ),
            stored=self._best.shape[1],
            origin={name: header[name] for name in ("teacher", "text", "source")},
        )

    def __reduce__(self) -> tuple[Callable[..., "PseudoLabels"], tuple[Path]]:
        return PseudoLabels, (self.file,)

    def __len__(self) -> int:
        return len(self._best)

    def embedding(self, row: int, mirrored: bool) -> Float32[np.ndarray, "E"]:
        """Returns the teacher's unit vector of an image, or of its mirror image."""
        return np.asarray(self._images[row, int(mirrored)], dtype=np.float32)

    def scores(self, row: int, keep: Keep) -> Float32[np.ndarray, "K"]:
        """Returns the score of each name for one image; 0 where it is not kept.

        Args:
            row: Which image.
            keep: With a top_k of at most what is stored.
        """
        logits = self._cosines[row, : keep.top_k] / keep.temperature
        kept = np.exp(logits - self._log_sum(row, keep.temperature))
        scores = np.zeros(len(self._texts), dtype=np.float32)
        scores[self._best[row, : keep.top_k]] = np.where(kept >= keep.threshold, kept, 0)
        return scores

    def check(self, keep: Keep) -> None:
        """Refuses a request for more names than are stored.

        Raises:
            InputError: if top_k is too large.
        """
        stored = self.recipe.stored
        if min(keep.top_k, len(self._texts)) > stored:
            raise InputError(
                f"{keep.top_k} names an image, but {stored} are stored",
                fix=f"ask for fewer, or label again with --stored {keep.top_k}",
                file=self.file,
                field="top_k",
            )

    def _log_sum(self, row: int, temperature: float) -> float:
        """Logarithm of the softmax's denominator."""
        if temperature == self.recipe.keep.temperature:
            return float(self._log_sums[row])
        cosines = self._texts @ self.embedding(row, False)
        return float(_log_sums(cosines[None], temperature)[0])


def write_pseudo_labels(
    file: Path,
    vectors: Float16[np.ndarray, "I 2 E"],
    sizes: Int64[np.ndarray, "I 2"],
    texts: Float32[np.ndarray, "K E"],
    recipe: Recipe,
) -> None:
    """Finds the best names of each image, and writes all that `PseudoLabels` reads.

    Args:
        file: Where to.
        vectors: Unit vectors of the images, plain and mirrored; labels are those of the plain.
        sizes: Height and width of each image.
        texts: Unit vectors of the names.
        recipe: With as many names stored as there are, at most.
    """
    count, stored, keep = len(vectors), recipe.stored, recipe.keep
    best = np.zeros((count, stored), dtype=np.int32)
    cosines = np.zeros((count, stored), dtype=np.float32)
    log_sums = np.zeros(count, dtype=np.float32)
    for start in range(0, count, _IMAGES_AT_ONCE):
        rows = slice(start, start + _IMAGES_AT_ONCE)
        found = vectors[rows, 0].astype(np.float32) @ texts.T
        # Stable: of equal names the first, on any machine.
        best[rows] = np.argsort(-found, axis=1, kind="stable")[:, :stored]
        cosines[rows] = np.take_along_axis(found, best[rows].astype(np.int64), axis=1)
        log_sums[rows] = _log_sums(found, keep.temperature)
    numbers = {"threshold": keep.threshold, "top_k": keep.top_k, "temperature": keep.temperature}
    write_columnar(
        file,
        FORM,
        {**recipe.origin, **{name: repr(number) for name, number in numbers.items()}},
        {
            "best": best,
            "cosines": cosines,
            "log_sums": log_sums,
            "embeddings": vectors,
            "texts": texts,
            "sizes": sizes,
            **text_columns("names", recipe.vocabulary.names),
        },
    )


def _log_sums(cosines: Float32[np.ndarray, "I K"], temperature: float) -> Float32[np.ndarray, "I"]:
    logits = cosines / np.float32(temperature)
    highest = logits.max(1)
    sums: Float32[np.ndarray, I] = np.exp(logits - highest[:, None]).sum(1)
    return highest + np.log(sums)
