"""The values that cross borders between parts: shapes, units and frames.

Letters: B images, H and W pixels, N grid cells of all levels, K names of the vocabulary, D width
of the embedding space, T annotated objects, M detections. Boxes are always xyxy. "Pixels of the
resized image" is the frame the network sees, before padding; "pixels of the original image" is the
frame of the file.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gridclip.io.errors import InputError


class Vocabulary:
    """An ordered list of distinct category names; a label is a row of it.

    It is hashable, so vectors made for it can be cached, and a plain class, so that Lightning hands
    it through untouched when it moves a batch between devices.

    Args:
        names: Category names as the data set spells them, at least one, all distinct.

    Raises:
        InputError: if there is no name, an empty one, one twice, or what is no list of texts.
    """

    __slots__ = ("names",)

    def __init__(self, names: Iterable[object]) -> None:
        if isinstance(names, str):  # whose letters are no names
            raise InputError(
                f"{names!r} is one text", fix=f"give a list: [{names!r}]", field="names"
            )
        texts: list[str] = []
        for each in names:
            if not isinstance(each, str):
                raise InputError(f"{each!r} is no text", fix="give texts only", field="names")
            texts.append(each)
        self.names = tuple(texts)
        if not self.names:
            raise InputError("the vocabulary is empty", fix="give at least one category name")
        if not all(name.strip() for name in self.names):
            raise InputError("the vocabulary has an empty name", fix="remove it or name it")
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise InputError(
                f"the vocabulary names these twice: {', '.join(twice)}", fix="keep one of each"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __hash__(self) -> int:
        return hash(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.names == other.names

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} names, first: {self.names[0]!r})"


class Images(NamedTuple):
    """Images of several sizes in one tensor."""

    pixels: UInt8[Tensor, "B 3 H W"]  # RGB 0-255, zeros to the right of and below each image
    sizes: Int[Tensor, "B 2"]  # height and width of each image inside the padding


class Targets(NamedTuple):
    """What is annotated in one image."""

    boxes: Float[Tensor, "T 4"]  # xyxy, pixels of the resized image
    labels: Int[Tensor, "T"]  # rows of the batch's vocabulary, not LVIS category ids
    # 0 and 1 on a grid over each box, where a detector learns masks.
    masks: UInt8[Tensor, "T S S"] | None = None


class RegionTargets(NamedTuple):
    """What a frozen CLIP saw in regions of one image, whatever they show."""

    boxes: Float[Tensor, "R 4"]  # xyxy, pixels of the resized image
    embeddings: Float[Tensor, "R E"]  # unit length


class Record(NamedTuple):
    """Where one image of a batch comes from."""

    image_id: int
    path: str
    height: int  # pixels of the original image
    width: int


class DetectionBatch(NamedTuple):
    """Images with boxes, and the vocabulary their labels point into."""

    images: Images
    targets: list[Targets]
    vocabulary: Vocabulary
    records: list[Record]
    # Categories whose presence or absence the image's boxes verify; None: every category.
    verified: Bool[Tensor, "B K"] | None = None
    teacher: Float[Tensor, "B E"] | None = None  # stored embeddings of these very views
    # Share of the training images that show each category.
    category_frequency: Float[Tensor, "K"] | None = None
    regions: list[RegionTargets] | None = None  # stored embeddings of proposals in these very views

    @property
    def log_group(self) -> str:
        """What the logged names of its losses begin with."""
        return "train/"


class ImageBatch(NamedTuple):
    """Images without boxes, with what a frozen CLIP saw in each as a whole."""

    images: Images
    scores: Float[Tensor, "B K"]  # pseudo-label of each category in [0, 1]; 0 where not kept
    vocabulary: Vocabulary
    records: list[Record]
    teacher: Float[Tensor, "B E"] | None = None  # stored embeddings of these very views

    @property
    def log_group(self) -> str:
        """What the logged names of its losses begin with."""
        return "train/image_level/"


class ConceptBatch(NamedTuple):
    """Images with concepts, which are categories or phrases, with boxes or without.

    One form for all that hybrid training learns from (DetCLIPv2, section 3.1: image, boxes,
    concepts). A batch holds one kind. `detection`: categories with boxes; `grounding`: phrases with
    boxes, which are drawn loosely; `pairs`: captions and their phrases, without boxes.
    """

    kind: Literal["detection", "grounding", "pairs"]
    images: Images
    targets: list[Targets]  # labels are rows of the vocabulary; empty for pairs
    # Concepts of all images of the batch, each string once, then negatives drawn from a dictionary.
    vocabulary: Vocabulary
    present: Bool[Tensor, "B K"]  # which concepts each image has
    captions: tuple[str, ...]  # the caption drawn for each image; "" where it has none
    records: list[Record]
    # Concepts whose presence or absence the image's boxes verify; None: every concept.
    verified: Bool[Tensor, "B K"] | None = None
    regions: list[Float[Tensor, "R 4"]] | None = (
        None  # proposals, xyxy, pixels of the resized image
    )

    @property
    def log_group(self) -> str:
        """What the logged names of its losses begin with."""
        return f"train/{self.kind}/"


Batch = DetectionBatch | ImageBatch | ConceptBatch
"""What a training step is given."""


class Cells(NamedTuple):
    """The grid: one cell per location of each pyramid level, finest level first."""

    centres: Float[Tensor, "N 2"]  # x, y in pixels of the resized image
    strides: Float[Tensor, "N"]  # pixels between neighbouring cells of the same level


class Predictions(NamedTuple):
    """What a dense detector predicts for every grid cell."""

    embeddings: Float[Tensor, "B N D"]  # unit length, in the space of the text vectors
    boxes: Float[Tensor, "B N 4"]  # xyxy, pixels of the resized image
    centreness: Float[Tensor, "B N"]  # logits
    cells: Cells
    image: Float[Tensor, "B E"] | None  # embedding of the whole image in the teacher's space
    aligned: Float[Tensor, "B N E"] | None = None  # second embedding, in training; unit length


class Proposals(NamedTuple):
    """Where something may be in one image, whatever it is, best first."""

    boxes: Float[Tensor, "R 4"]  # xyxy, pixels of the resized image
    scores: Float[Tensor, "R"]  # objectness in [0, 1]


class Detections(NamedTuple):
    """What was found in one image, best first."""

    boxes: Float[Tensor, "M 4"]  # xyxy, pixels of the original image
    scores: Float[Tensor, "M"]  # in [0, 1]
    labels: Int[Tensor, "M"]  # rows of the vocabulary
    # Probability of each cell of a grid over each box, of detectors that have masks.
    masks: Float[Tensor, "M S S"] | None = None

    def take(self, rows: Int[Tensor, "_"] | Bool[Tensor, "M"]) -> "Detections":
        """Returns the detections of these rows, or where this mask is true."""
        masks = None if self.masks is None else self.masks[rows]
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], masks)
