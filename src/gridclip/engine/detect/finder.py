"""Finds what is named in images, whatever network does it: the calls that users make."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from jaxtyping import UInt8
from numpy import ndarray

from gridclip.data.images.given import ImageLike, listed, pixels_of
from gridclip.engine.detect.examples import Example
from gridclip.engine.detect.findings import Findings, Found
from gridclip.engine.detect.tiles import Tiles, merged, windows
from gridclip.io.errors import InputError, require_at_least, require_fraction
from gridclip.structures import Detections, Vocabulary

Pixels = UInt8[ndarray, "_ _ 3"]


class Finder(ABC):
    """Finds whatever you name; a subclass says how a few images are searched at once."""

    @abstractmethod
    def search(self, pixels: Sequence[Pixels], vocabulary: Vocabulary) -> list[Detections]:
        """Returns what is in each image, best first, at any score, in pixels of that image.

        Args:
            pixels: RGB of images of any sizes, at least one.
            vocabulary: What to look for.
        """

    def add_examples(self, examples: Mapping[str, Sequence[Example]], weight: float = 0.5) -> None:
        """Lets names stand for what boxes show, from now on, whether they are new or known.

        Args:
            examples: Boxes of each name, one or more.
            weight: How much they count beside the name's text, in [0, 1].

        Raises:
            InputError: if it cannot, or for an image or a box that is wrong.
        """
        raise InputError(
            f"{type(self).__name__} compares images with names alone, not with examples",
            fix="give the run itself: an exported file makes no vectors of regions",
            field="examples",
        )

    def detect(
        self,
        image: ImageLike,
        names: Sequence[str],
        *,
        threshold: float = 0.3,
        limit: int = 100,
        tiles: Tiles | None = None,
    ) -> Findings:
        """Finds objects of these names in one image, best first.

        Args:
            image: A file, a PIL image, or RGB pixels (height x width x 3, uint8). A file is turned
                upright, as its EXIF orientation says, and boxes are in pixels of the upright
                image; to search the stored pixels, give them.
            names: What to look for: any words, whether trained on or not.
            threshold: Least score, in [0, 1].
            limit: At most so many, at least 1.
            tiles: Search the image in windows too, for objects that are small in it.

        Raises:
            InputError: for an image that cannot be read, or is none; names that are empty, double
                or no list of texts; a threshold or a limit out of range.
        """
        return self.detect_many([image], names, threshold=threshold, limit=limit, tiles=tiles)[0]

    def detect_many(
        self,
        images: Sequence[ImageLike],
        names: Sequence[str],
        *,
        threshold: float = 0.3,
        limit: int = 100,
        tiles: Tiles | None = None,
    ) -> list[Findings]:
        """Finds objects of these names in images of any sizes at once: each one's, best first.

        They are padded to the largest, so images of like size make the quickest batch; with tiles
        the windows of one image after the other are. Of no image the answer is an empty list.

        Args:
            images: Files, PIL images, or RGB pixels, as for `detect`.
            names: What to look for.
            threshold: Least score, in [0, 1].
            limit: At most so many in each image, at least 1.
            tiles: Search each image in windows too.

        Raises:
            InputError: as `detect`.
        """
        require_fraction(threshold=threshold)
        require_at_least(1, limit=limit)
        vocabulary, pixels = Vocabulary(names), [pixels_of(image) for image in listed(images)]
        if not pixels:
            return []
        if tiles is None:
            found = self.search(pixels, vocabulary)
        else:
            found = [self._search_tiles(each, vocabulary, tiles, threshold) for each in pixels]
        return [
            _named(each, vocabulary, image, (threshold, limit))
            for each, image in zip(found, pixels, strict=True)
        ]

    def _search_tiles(
        self, pixels: Pixels, vocabulary: Vocabulary, tiles: Tiles, threshold: float
    ) -> Detections:
        height, width, _ = pixels.shape
        views = windows(width, height, tiles)
        if len(views) > 1 and tiles.whole:
            views.append((0, 0, width, height))
        found: list[Detections] = []
        for start in range(0, len(views), tiles.batch):
            crops = [pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in views[start : start + tiles.batch]]
            # What scores less would be dropped in the end, and hides no better box until then.
            found += [_above(each, threshold) for each in self.search(crops, vocabulary)]
        return merged(found, views, tiles)


def _above(found: Detections, threshold: float) -> Detections:
    high = found.scores >= threshold
    return found.take(high)


def _named(
    found: Detections, vocabulary: Vocabulary, pixels: Pixels, least: tuple[float, int]
) -> Findings:
    """Names what is found, best first; of at least a score, so many, with their masks."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    objects = [
        Found(vocabulary.names[label], score, (x1, y1, x2, y2))
        for (x1, y1, x2, y2), score, label in rows
    ]
    height, width, _ = pixels.shape
    every = Findings(objects, names=vocabulary.names, width=width, height=height)
    best = every.above(*least)
    if found.masks is not None:
        from gridclip.evaluation.masks import mask_codes

        kept = found.take(found.scores.argsort(descending=True, stable=True)[: len(best)])
        best.masks = tuple(mask_codes(kept, (height, width)))
    return best
