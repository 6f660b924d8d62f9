"""How well a frozen teacher names given boxes, by how it is shown them: before it teaches."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from gridclip.data.annotations.groups import add_groups
from gridclip.data.annotations.reader import Annotations, read_annotations
from gridclip.data.images.image_list import ImageList
from gridclip.data.images.sources import open_images
from gridclip.engine.precompute.embed_images import DecodedImages
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import require_writable, write_text
from gridclip.io.tables import WholeTable, make_console
from gridclip.models.encoders import ClipTeacher, Teacher
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_views import VIEWS, RegionView, embed_regions
from gridclip.models.encoders.text import TextBank
from gridclip.ops.images import pad
from gridclip.ops.vectors import require_same_width
from gridclip.structures import Images, Vocabulary

_CLIP = ClipModel()
_IMAGES_AT_ONCE = 16
_SIDES = {"small": (0, 32), "medium": (32, 96), "large": (96, np.inf)}  # COCO's, in pixels


class Naming(NamedTuple):
    """How often a teacher named boxes right, as fractions."""

    boxes: int
    top1: float
    top5: float  # the true name was among the five nearest


class BoxSample(NamedTuple):
    """Some annotated boxes, in the order of the file."""

    rows: Int64[np.ndarray, "S"]  # of their images
    boxes: Float32[np.ndarray, "S 4"]  # xyxy, pixels of the original image
    labels: Int64[np.ndarray, "S"]  # rows of the categories


def probe_command(  # noqa: PLR0913 - one argument a setting
    annotations: Path,
    *,
    images: Path | None = None,
    clip: ClipModel = _CLIP,
    teacher: Teacher | None = None,
    text: TextBank | None = None,
    view: RegionView | None = None,
    groups: Path | None = None,
    limit: int = 5000,
    seed: int = 0,
    output: Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
) -> None:
    """Let a frozen teacher name the boxes of an annotation file, shown to it in each view.

    Args:
        annotations: An annotation file of LVIS or COCO form; the teacher chooses among all its
            names.
        images: What its paths are relative to; by default the folder images beside it, or else its
            own.
        clip: The CLIP whose image tower is the teacher.
        teacher: Another teacher, in place of a CLIP.
        text: Other text vectors than the teacher's own, in its space.
        view: squeezed, vild, pasted or roi (docs/data.md); by default all that the teacher can.
        groups: More groups of categories, as gridclip evaluate takes them.
        limit: At most so many boxes, drawn at random.
        seed: Of the draw.
        output: Where to write the figures as json, as fractions.
        batch_size: Boxes that the teacher sees at a time.
        num_workers: Processes that read images; 0 reads in this one.
    """
    if output is not None:
        require_writable(output)
    read, listed = read_annotations(annotations), open_images(annotations, images)
    read = read if groups is None else add_groups(read, groups)
    chosen = teacher or ClipTeacher(clip)
    chosen.load()
    vectors = name_vectors(read, chosen, text)
    sample = draw_boxes(read, limit, seed)
    views = usable_views(chosen) if view is None else (view,)
    ranks = rank_names(
        chosen, vectors, read, listed, sample, views, batch_size=batch_size, num_workers=num_workers
    )
    found = {each: namings(read, sample, rank) for each, rank in ranks.items()}
    title = (
        f"{annotations}: {len(sample.rows)} of {len(read.labels.values)} boxes, named among "
        f"{len(read.categories)}; top-1 / top-5 in percent"
    )
    make_console().print(_table(found, title))
    if output is not None:
        figures = {
            each: {group: naming._asdict() for group, naming in of.items()}
            for each, of in found.items()
        }
        about = {"annotations": str(annotations), "names": len(read.categories), "seed": seed}
        about |= {"teacher": chosen.fingerprint(), "views": figures}
        write_text(output, json.dumps(about, indent=2) + "\n")


def named_share(
    source: Path,
    images: ImageList,
    teacher: Teacher,
    view: RegionView,
    text: TextBank | None = None,
    *,
    limit: int = 2000,
) -> float | None:
    """Returns the share of annotated boxes that a teacher names right; None if there are none.

    Args:
        source: Where the images are from; it has boxes if it is an annotation file.
        images: Its images.
        teacher: Loaded.
        view: How the teacher is shown them.
        text: Vectors in the teacher's space; by default its own.
        limit: At most so many boxes, always the same.

    Raises:
        InputError: as `name_vectors`.
    """
    if not limit or source.suffix != ".json":
        return None
    annotations = read_annotations(source, faults="drop")
    if not len(annotations.labels.values):
        return None
    vectors, sample = name_vectors(annotations, teacher, text), draw_boxes(annotations, limit, 0)
    ranks = rank_names(teacher, vectors, annotations, images, sample, (view,))[view]
    return namings(annotations, sample, ranks)["all"].top1


def usable_views(teacher: Teacher) -> tuple[RegionView, ...]:
    """Returns the views in which a teacher can see boxes: not all have a map."""
    try:
        teacher.region_encoder()
    except InputError:
        return tuple(view for view in VIEWS if view != "roi")
    return VIEWS


def name_vectors(
    annotations: Annotations, teacher: Teacher, text: TextBank | None
) -> Float[Tensor, "K E"]:
    """Returns the unit vector of each category of a file.

    Args:
        annotations: Whose categories.
        teacher: Loaded.
        text: Vectors in the teacher's space; by default its own.

    Raises:
        InputError: if they are of another width, or the teacher knows no names.
    """
    bank = text or teacher.own_text()
    fix = "give text vectors made for the space of this teacher"
    require_same_width(teacher.width, bank.width, field="text", fix=fix)
    with torch.no_grad():
        return bank(Vocabulary(category.name for category in annotations.categories))


def draw_boxes(annotations: Annotations, limit: int, seed: int) -> BoxSample:
    """Draws annotated boxes at random; the same ones for the same seed.

    Raises:
        InputError: if there are none.
    """
    require_at_least(1, limit=limit)
    require_at_least(0, seed=seed)
    count = len(annotations.labels.values)
    if not count:
        fix = "give a file with boxes"
        raise InputError("holds no boxes to name", fix=fix, file=annotations.file)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(count, min(limit, count), replace=False))
    return BoxSample(
        annotations.boxes.rows[chosen],
        np.asarray(annotations.boxes.values[chosen]),
        annotations.labels.values[chosen].astype(np.int64),
    )


def rank_names(  # noqa: PLR0913 - a teacher, what it knows, what it sees, and how
    teacher: Teacher,
    names: Float[Tensor, "K E"],
    annotations: Annotations,
    images: ImageList,
    sample: BoxSample,
    views: Sequence[RegionView],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
) -> dict[RegionView, Int64[np.ndarray, "S"]]:
    """Returns for each view how many names lie at least as near to each box as its own name.

    Args:
        teacher: Loaded.
        names: Unit vector of each category. One of a name that the text does not know is zero; its
            boxes are named right by chance at most.
        annotations: The file.
        images: The images of that file.
        sample: Boxes of it.
        views: How the teacher is shown them.
        batch_size: Boxes that the teacher sees at a time.
        num_workers: Processes that read images; 0 reads in this one.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Channels last: on a CPU the mini CLIP's tower takes half the time so.
    teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()
    vectors, truth = names.to(device), torch.from_numpy(sample.labels).to(device)
    ranks: dict[RegionView, list[Tensor]] = {view: [] for view in views}
    shown = np.unique(sample.rows)
    boxes = [torch.from_numpy(sample.boxes[sample.rows == row]).to(device) for row in shown]
    done = 0
    for start, decoded in _decoded(images, annotations.paths[shown].tolist(), num_workers):
        batch = Images(*(part.to(device) for part in pad(decoded, 1)))
        here = boxes[start : start + len(decoded)]
        labels = truth[done : done + sum(map(len, here)), None]
        done += len(labels)
        for view in views:
            seen = torch.cat(embed_regions(teacher, batch, here, view, batch_size=batch_size))
            cosines = seen @ vectors.mT
            ranks[view].append((cosines >= cosines.gather(1, labels)).sum(1) - 1)
    return {view: torch.cat(parts).cpu().numpy() for view, parts in ranks.items()}


def _decoded(
    images: ImageList, paths: list[str], num_workers: int
) -> Iterator[tuple[int, list[Tensor]]]:
    """Yields images a batch at a time, with the number of those before."""
    place = {images.image(row).path: row for row in range(len(images))}
    wanted = DecodedImages(images, [place[path] for path in paths])
    batches = DataLoader(
        wanted, batch_size=_IMAGES_AT_ONCE, num_workers=num_workers, collate_fn=list
    )
    for number, decoded in enumerate(track(batches, "naming")):
        yield number * _IMAGES_AT_ONCE, decoded


def namings(
    annotations: Annotations, sample: BoxSample, ranks: Int64[np.ndarray, "S"]
) -> dict[str, Naming]:
    """Returns how often boxes were named right: all, by frequency of the name, size and group.

    Args:
        annotations: The file.
        sample: Boxes of it.
        ranks: What `rank_names` found, in one view.

    Returns:
        By group, those that have a box: all; r, c, f; small, medium, large (COCO's, by the area of
        the box in the original image); and the file's own groups of categories.
    """
    groups = {group: inside for group, inside in _groups(annotations, sample) if inside.any()}
    return {
        group: Naming(int(inside.sum()), *(float((ranks[inside] < top).mean()) for top in (1, 5)))
        for group, inside in groups.items()
    }


def _groups(
    annotations: Annotations, sample: BoxSample
) -> Iterator[tuple[str, Bool[np.ndarray, "S"]]]:
    yield "all", np.ones(len(sample.labels), dtype=bool)
    frequencies = np.array([category.frequency or "" for category in annotations.categories])
    for frequency in ("r", "c", "f"):
        yield frequency, frequencies[sample.labels] == frequency
    areas = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1)
    for size, (least, below) in _SIDES.items():
        yield size, (areas >= least**2) & (areas < below**2)
    for group, rows in annotations.groups.items():
        yield group, np.isin(sample.labels, list(rows))


def _table(found: dict[RegionView, dict[str, Naming]], title: str) -> WholeTable:
    groups = next(iter(found.values()))
    table = WholeTable(("boxes", "number", *found), left=("boxes",), title=title)
    for group, (count, _, _) in groups.items():
        cells = (
            f"{100 * of[group].top1:.1f} / {100 * of[group].top5:.1f}" for of in found.values()
        )
        table.add_row(group, str(count), *cells)
    return table
