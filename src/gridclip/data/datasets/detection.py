"""Images with boxes, one at a time."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from gridclip.data.annotations.table import Annotations, Ragged
from gridclip.data.datasets.image_level import ImageLevelSource
from gridclip.data.images.decode import read_header, read_image, require_size
from gridclip.data.precomputed.stored import StoredEmbeddings, StoredRegions
from gridclip.data.sampling import SampleIndex, SamplingPool
from gridclip.data.transforms.augment import Transform
from gridclip.data.transforms.example import IMAGES, Example, Mosaic, to_tensor, wholly_inside
from gridclip.data.vocabulary import LabelMap, category_frequency, repeat_factors
from gridclip.io.errors import InputError
from gridclip.io.files import refuse_paths_outside
from gridclip.ops.masks import MASK_SIDE
from gridclip.ops.rle import grids
from gridclip.structures import Record, RegionTargets, Targets, Vocabulary


class Sample(NamedTuple):
    """One image of a data set, ready for the network."""

    image: UInt8[Tensor, "3 h w"]
    targets: Targets
    record: Record
    verified: Bool[Tensor, "K"] | None = None  # whose presence or absence the boxes verify
    teacher: Float[Tensor, "E"] | None = None  # the stored embedding of this very view
    regions: RegionTargets | None = None  # proposals in it, with stored embeddings


class ImageExtras(NamedTuple):
    """What else is known of each image of an annotation file, beside its boxes."""

    verified: Ragged | None = None  # rows of the vocabulary; None: all, in every image
    embeddings: StoredEmbeddings | None = None  # of the teacher
    regions: StoredRegions | None = None  # proposals, embedded by the teacher


NOTHING = ImageExtras()
ALONE = Mosaic()

# Sets the random numbers of a mosaic apart from those of a view and its concepts (concepts.py: 1).
_MOSAIC = 2


class DetectionDataset(Dataset[Sample]):
    """The images of an annotation file, with the boxes of the categories of a vocabulary.

    Augmentation is a function of (seed, epoch, image, turn) alone, so it is the same with any
    number of workers, and new in each epoch.

    Args:
        annotations: The file, read.
        folder: What its paths are relative to.
        labels: The vocabulary; boxes of categories outside it are left out.
        transform: From the stored image to what the network sees.
        seed: Of the augmentation.
        keep_empty: Whether images without (remaining) boxes count, as pure negatives.
        mosaic: How often a draw shows parts of three other images too.
        extras: What else is known of each image; neither proposals nor embeddings of the teacher
            with a mosaic, which has others.

    Raises:
        InputError: if stored proposals or embeddings were to go with a mosaic.
    """

    def __init__(  # noqa: PLR0913 - as many as a data set has parts
        self,
        annotations: Annotations,
        folder: Path,
        labels: LabelMap,
        transform: Transform,
        *,
        seed: int = 0,
        keep_empty: bool = True,
        mosaic: Mosaic = ALONE,
        extras: ImageExtras = NOTHING,
    ) -> None:
        if mosaic.probability and (extras.embeddings is not None or extras.regions is not None):
            raise InputError(
                "what a teacher saw in one image does not hold for parts of four",
                field="augmentation.mosaic",
                fix="set it to 0, or leave out stored embeddings and regions",
            )
        self.annotations, self.folder, self.extras = annotations, folder, extras
        self.transform, self.seed, self.mosaic = transform, seed, mosaic
        rows = labels.rows[annotations.labels.values]
        self.boxes = annotations.boxes.keep(rows >= 0)
        self.labels = annotations.labels._replace(values=rows).keep(rows >= 0)
        masks = annotations.masks  # a row a box
        self.masks = None if masks is None else masks.keep_rows(rows >= 0)
        counts = np.diff(self.labels.offsets)
        self.images = np.flatnonzero(counts >= (0 if keep_empty else 1))
        self.vocabulary: Vocabulary = labels.vocabulary

    @property
    def sizes(self) -> Int64[np.ndarray, "I 2"]:
        """Height and width of each image, in pixels of the original image."""
        return self.annotations.sizes[self.images]

    @cached_property
    def category_frequency(self) -> Float[Tensor, "K"]:
        """Share of the images of the file that show each category."""
        frequency = category_frequency(self.labels, len(self.vocabulary))
        return torch.tensor(frequency, dtype=torch.float32)

    def require_boxes(self, rare_split: str, field: str) -> None:
        """Refuses to train where the rare split leaves no box.

        Raises:
            InputError: naming the setting `field`.
        """
        if not len(self.labels.values):
            raise InputError(
                f"no box is left to train on (rare_split is {rare_split})",
                fix=f"give a file with boxes, or set {field}=all",
                file=self.annotations.file,
                field="annotations",
            )

    def pool(
        self, batch_size: int, repeat_threshold: float = 0.0, ratio: float = 1.0
    ) -> SamplingPool:
        """Returns what a sampler draws from; a threshold repeats images of rare categories."""
        repeats = None
        if repeat_threshold:
            names = len(self.vocabulary)
            repeats = repeat_factors(self.labels, names, repeat_threshold)[self.images]
        return SamplingPool(self.sizes, batch_size, repeats, ratio)

    def __len__(self) -> int:
        return len(self.images)

    def shown(self, draw: SampleIndex) -> list[int]:
        """Returns the images that a draw shows: its own, and three others if it makes a mosaic."""
        return self._mosaic(draw)[0]

    def __getitem__(self, draw: SampleIndex | int) -> Sample:
        """Reads and transforms one image, or four for a mosaic.

        Args:
            draw: Which image and in which epoch; a bare row is of epoch 0.

        Raises:
            InputError: if an image cannot be read or has another size than listed.
        """
        draw = draw if isinstance(draw, SampleIndex) else SampleIndex(draw)
        (image, *others), rng = self._mosaic(draw)
        view = self._view(image, np.random.default_rng(self._seed_of(draw)))
        if others:
            parts = [view, *(self._view(other, rng) for other in others)]
            view = self.mosaic.join(parts, rng)
        path = str(self.annotations.paths[image])
        height, width = self.annotations.sizes[image].tolist()
        verified = None
        if view.verified is not None:
            verified = torch.from_numpy(np.isin(np.arange(len(self.vocabulary)), view.verified))
        return Sample(
            image=to_tensor(view.image),
            targets=_targets(view),
            record=Record(int(self.annotations.image_ids[image]), path, height, width),
            verified=verified,
            teacher=self._embedding(path, view.mirrored),
            regions=self._regions(path, view),
        )

    def _seed_of(self, draw: SampleIndex) -> tuple[int, ...]:
        """Returns the seed of all random numbers of a draw."""
        return (self.seed, draw.epoch, int(self.images[draw.row]), draw.turn)

    def _mosaic(self, draw: SampleIndex) -> tuple[list[int], np.random.Generator]:
        """Returns the images that a draw shows, and the generator that makes one image of them."""
        image = int(self.images[draw.row])
        rng = np.random.default_rng((*self._seed_of(draw), _MOSAIC))
        if rng.random() >= self.mosaic.probability:
            return [image], rng
        return [image, *rng.choice(self.images, IMAGES - 1).tolist()], rng

    def _view(self, image: int, rng: np.random.Generator) -> Example:
        """Reads an image and transforms it."""
        path = str(self.annotations.paths[image])
        file = self.folder / path
        height, width = self.annotations.sizes[image].tolist()
        pixels = read_image(file)
        require_size(file, pixels.shape[:2], (height, width), self.annotations.file)
        known, stored = self.extras.verified, self.extras.regions
        return self.transform(
            Example(
                pixels,
                self.boxes.of(image),
                self.labels.of(image),
                verified=None if known is None else known.of(image),
                regions=None if stored is None else stored.of(path, False).boxes,
                masks=self._masks(image, (height, width)),
            ),
            rng,
        )

    def _masks(self, image: int, size: tuple[int, int]) -> UInt8[np.ndarray, "T S S"] | None:
        """Returns the masks of an image's boxes, on grids over them, if they were read."""
        if self.masks is None:
            return None
        first, end = self.boxes.offsets[image : image + 2].tolist()
        codes = [self.masks.of(row).tobytes() for row in range(first, end)]
        return grids(codes, self.boxes.of(image), size, MASK_SIDE)

    def _embedding(self, path: str, mirrored: bool) -> Float[Tensor, "E"] | None:
        stored = self.extras.embeddings
        return None if stored is None else torch.tensor(stored.of(path, mirrored))

    def _regions(self, path: str, view: Example) -> RegionTargets | None:
        """Returns the proposals that the view shows whole: what it cuts has another embedding."""
        stored = self.extras.regions
        if stored is None or view.regions is None:
            return None
        shown = wholly_inside(view.regions, view.image.shape[:2])
        embeddings = stored.of(path, view.mirrored).embeddings
        return RegionTargets(torch.tensor(view.regions[shown]), torch.tensor(embeddings[shown]))


def _targets(view: Example) -> Targets:
    masks = None if view.masks is None else torch.from_numpy(np.ascontiguousarray(view.masks))
    return Targets(torch.tensor(view.boxes), torch.tensor(view.labels), masks)


# Opening every file of a large data set takes minutes on a network disk, so only sets up to this
# many images have each header read before training; others are checked as they are read.
HEADERS_READ = 5_000


def check_images(annotations: Annotations, folder: Path, *, headers: bool = True) -> None:
    """Checks, before training, that every image is in the folder and as large as the file says.

    Existence is checked for all, by listing folders; headers of sets up to HEADERS_READ images, if
    at all: who goes on without what cannot be read learns it when it is.

    Raises:
        InputError: with the count and the first names.
    """
    paths = annotations.paths.tolist()
    refuse_paths_outside(folder, paths, source=annotations.file, field="images.file_name")
    unlisted = _unlisted(paths, folder)
    # Path.is_file raises for a name that no file can have.
    missing = [file for file in unlisted if not os.path.isfile(file)]  # noqa: PTH113
    if missing:
        names = ", ".join(map(str, missing[:3]))
        raise InputError(
            f"{len(missing)} of {len(annotations.paths)} images do not exist: {names!r}"
            + (", ..." if len(missing) > 3 else ""),
            fix=f"put them there, or mend `images` (now {str(folder)!r}) or the file_name entries",
            file=annotations.file,
            field="images",
        )
    if not headers or len(annotations.paths) > HEADERS_READ:
        return
    for path, size in zip(annotations.paths.tolist(), annotations.sizes.tolist(), strict=True):
        file = folder / path
        require_size(file, read_header(file, file)[:2], tuple(size), annotations.file)


def _unlisted(paths: list[str], folder: Path) -> Iterator[Path]:
    """Yields the paths that are not in their folders: one listing a folder, however many images."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[(folder / path).parent].append(folder / path)
    for parent, files in folders.items():
        try:
            names = {entry.name for entry in parent.iterdir()}
        except (OSError, ValueError):
            names = set()
        yield from (file for file in files if file.name not in names)


def fingerprint(dataset: DetectionDataset, source: ImageLevelSource | None = None) -> str:
    """Returns a digest of what is trained on: images, boxes, labels, vocabularies."""
    annotations = dataset.annotations
    columns = [annotations.image_ids, dataset.images, dataset.sizes]
    columns += [dataset.boxes.values, dataset.boxes.offsets, dataset.labels.values]
    names = [*dataset.vocabulary.names]
    if source is not None:
        columns.append(source.sizes)
        names += source.vocabulary.names
    return f"{len(dataset)} ({digest(names, columns)})"


def digest(names: Iterable[str], columns: Iterable[Shaped[np.ndarray, "..."]]) -> str:
    """Returns a digest of texts and arrays, which changes with any of them."""
    found = hashlib.blake2b("\0".join(names).encode(), digest_size=8)
    for column in columns:
        found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()
