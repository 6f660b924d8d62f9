"""Stored embeddings of training images, so that no step pays for the teacher."""

import numpy as np
from jaxtyping import Float32

from gridclip.clip.stored.by_path import StoredByPath


class StoredEmbeddings(StoredByPath):
    """A teacher's embeddings of whole images and of their mirror images, by path.

    They are of the stored picture, so they hold for a view that shows all of it, resized and
    perhaps mirrored; not for one that was cropped or recoloured.
    """

    form = "gridclip embeddings 1"
    maker = "gridclip data embed"
    lacking = "have no embedding"
    fix = (
        "add them: gridclip data embed ANNOTATIONS.json --images DIR --output {file} "
        "(with the same teacher; what is there stays)"
    )

    def __len__(self) -> int:
        return len(self._vectors)

    def of(self, path: str, mirrored: bool) -> Float32[np.ndarray, "E"]:
        """Give the unit vector of an image, or of its mirror image.

        Args:
            path: As the annotation file or source names it.
            mirrored: Which of the two.

        Raises:
            InputError: if the image is not among those embedded.
        """
        return np.asarray(self._vectors[self._row(path), int(mirrored)], dtype=np.float32)
