"""What an exported file says of itself, so that it can be used without the run it came from."""

import base64
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from jaxtyping import Float32

from gridclip.data.transforms.augment import Resize
from gridclip.io.errors import InputError
from gridclip.ops.postprocess import DecodeSettings

KEY = "gridclip"
"""Of the metadata of a file: one json text."""

FORM = 1
Suppression = Literal["inside", "outside"]


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of names, kept in the file: its reference names, or those folded in.

    Args:
        names: The names.
        width: Of a vector.
        data: Numbers of 4 bytes, the lowest byte first, row by row, in base64.
    """

    names: tuple[str, ...]
    width: int
    data: str

    @classmethod
    def of(cls, names: tuple[str, ...], matrix: Float32[np.ndarray, "K D"]) -> "Vectors":
        """Keeps a matrix, a row a name."""
        data = base64.b64encode(np.ascontiguousarray(matrix, dtype="<f4").tobytes())
        return cls(names, matrix.shape[1], data.decode())

    def matrix(self) -> Float32[np.ndarray, "K D"]:
        """Returns the matrix.

        Raises:
            ValueError: if it is not of that size.
        """
        numbers = np.frombuffer(base64.b64decode(self.data, validate=True), dtype="<f4")
        return numbers.reshape(len(self.names), self.width).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file says of itself.

    Args:
        version: Of gridclip, which wrote the file.
        detector: Class of the detector.
        run: Name of the folder of its run.
        names: Names that are folded in, in the order of labels; None: an input has their vectors.
        width: Of those vectors.
        vectors: Of the names that were trained on, where the names are an input.
        text: Which text bank makes vectors of other names, as a row says it; None: none can.
        fingerprint: Of that bank.
        resize: How images are resized before.
        decoding: How many detections leave, and how they are scored.
        nms: Whether suppression is part of the graph.
        form: Of these facts.
    """

    version: str
    detector: str
    run: str
    names: tuple[str, ...] | None
    width: int
    vectors: Vectors | None
    text: dict[str, Any] | None
    fingerprint: str
    resize: Resize
    decoding: DecodeSettings
    nms: Suppression
    form: int = FORM

    def written(self) -> dict[str, str]:
        """Returns them as metadata."""
        return {KEY: json.dumps(dataclasses.asdict(self), ensure_ascii=False)}


def read_facts(metadata: Mapping[str, str], file: Path) -> Facts:
    """Returns what a file says of itself.

    Raises:
        InputError: if it is no file of `gridclip export`, or of a later version.
    """
    fix = "give a file that gridclip export wrote"
    if KEY not in metadata:
        raise InputError("does not say what it finds", file=file, fix=fix)
    try:
        form = msgspec.json.decode(metadata[KEY], type=dict[str, Any], strict=True).get("form")
        if form != FORM:
            raise InputError(
                f"is of form {form}, and this gridclip reads {FORM}",
                file=file,
                fix="use the version of gridclip that wrote it, or export the run again",
            )
        return msgspec.json.decode(metadata[KEY], type=Facts, strict=True)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"is damaged: {error}", file=file, fix=fix) from error
