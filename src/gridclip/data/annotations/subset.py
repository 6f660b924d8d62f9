"""The command that makes a small data set of a large one: fewer images, made smaller."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image
from rich.console import Console
from rich.progress import track

from gridclip.data.annotations.coco_json import parse_lists
from gridclip.data.annotations.schema import NOT_EXHAUSTIVE, image_path, is_federated, to_columns
from gridclip.data.annotations.table import Annotations
from gridclip.data.images.decode import read_image
from gridclip.io.downloads import fetch
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import refuse_paths_outside, require_writable, write_text, written_whole
from gridclip.io.json_table import read_content
from gridclip.io.tables import make_console, say

_QUALITY = 90
_LEAST_SIDE = 1.0  # pixels: a smaller box shows nothing
_MOST_BYTES = 50_000_000  # of an image that is fetched
_AT_ONCE = 8  # images fetched or made smaller


class Part(NamedTuple):
    """Rows of images that become one annotation file."""

    name: str
    rows: Int64[np.ndarray, "I"]


def subset_command(  # noqa: PLR0913 - a command has as many options as it takes
    file: Path,
    output: Path,
    *,
    train: int = 0,
    val: int = 0,
    shots: int = 0,
    images: Path | None = None,
    longest: int | None = 256,
    least: int = 1,
    seed: int = 0,
) -> None:
    """Make a small data set of a file of COCO or LVIS form: some images, made smaller.

    First come images of the rarest names, until each name is shown by `least` images of each part,
    then any others. The same seed gives the same images. No image is in both parts. Names, lists
    and frequencies stay as the file has them; counts of images and boxes become those of the set.

    Args:
        file: Json file in COCO or LVIS form. It is never changed.
        output: Folder to make: train.json, val.json and images.
        train: Images of train.json; 0 leaves the file out.
        val: Images of val.json; 0 leaves the file out.
        shots: In place of both, so many images of each name, or all that show it, as train.json;
            with one seed, those of fewer shots are a part of those of more.
        images: Folder of the images; without it those that are needed are fetched, one by one, by
            their `coco_url`.
        longest: Longest side in pixels; larger images are made smaller, with their boxes. Null
            leaves all as they are.
        least: Images that each part has of each name, where the file has as many.
        seed: Of what is drawn.
    """
    require_at_least(0, train=train, val=val, shots=shots, least=least, seed=seed)
    if shots and (train or val):
        fix = "leave out --train and --val; draw val.json by a call of its own, from another file"
        raise InputError("shots take the place of train and val", field="shots", fix=fix)
    require_at_least(1, images=train + val + shots, longest=longest or 1)
    sizes = {name: count for name, count in (("train", train), ("val", val)) if count}
    for name in sizes or ("train",):
        require_writable(output / f"{name}.json", new=True)
    content = read_content(file)
    found = to_columns(file, parse_lists(file, content), "validation")
    if shots:
        parts = [Part("train", choose_shots(found, shots, longest=longest, seed=seed))]
    else:
        parts = choose(found, sizes, longest=longest, least=least, seed=seed)
    document: dict[str, Any] = json.loads(content)
    records = {each["id"]: each for each in document["images"]}
    chosen = [records[found.image_ids[row]] for part in parts for row in part.rows]
    _require_images(chosen, images, file)
    scales = _write_images(chosen, images, output / "images", longest)
    for part in parts:
        ids = found.image_ids[part.rows].tolist()
        small = _document(document, {number: scales[number] for number in ids})
        write_text(output / f"{part.name}.json", json.dumps(small))
        _tell(output / f"{part.name}.json", small)


def _tell(file: Path, small: dict[str, Any]) -> None:
    """Says how many images, boxes and names a part has, and which names it lacks."""
    console = make_console()
    shown = {each["category_id"] for each in small["annotations"]}
    lacking = [each["name"] for each in small["categories"] if each["id"] not in shown]
    names = f"{len(small['categories']) - len(lacking)} of {len(small['categories'])} names"
    counts = f"{len(small['images'])} images, {len(small['annotations'])} boxes of {names}"
    say(console, f"{file}: {counts}")
    if lacking:
        some = f"{', '.join(lacking[:10])}{', ...' * (len(lacking) > 10)}"
        say(console, f"  without a box: {some}")


def choose(
    found: Annotations, sizes: dict[str, int], *, longest: int | None, least: int, seed: int
) -> list[Part]:
    """Draws the images of each part, none twice.

    Args:
        found: The file.
        sizes: Images of each part, by name.
        longest: Longest side that images will have: a box that becomes too small shows nothing.
        least: Images that each part shows of each name; the file may have fewer.
        seed: The same gives the same.

    Raises:
        InputError: if the file has too few images, or so few cannot show every name.
    """
    total = len(found.image_ids)
    if sum(sizes.values()) > total:
        problem = f"has {total} images, fewer than the {sum(sizes.values())} asked for"
        raise InputError(problem, fix="ask for fewer: --train, --val", file=found.file)
    shows = _shows(found, longest)
    order = np.random.default_rng(seed).permutation(total)
    chosen = _covering(shows, order, sorted(sizes, key=lambda name: sizes[name]), least)
    for name, rows in chosen.items():
        if len(rows) > sizes[name]:
            raise InputError(
                f"{sizes[name]} images cannot show every name {least} times: {len(rows)} do",
                fix=f"ask for more (--{name} {len(rows)}), or for less of each name (--least)",
                file=found.file,
                field=name,
            )
    taken = {row for rows in chosen.values() for row in rows}
    others = iter([row for row in order.tolist() if row not in taken])
    for name, rows in chosen.items():
        rows += islice(others, sizes[name] - len(rows))
    return [Part(name, np.sort(np.array(chosen[name], dtype=np.int64))) for name in sizes]


def choose_shots(
    found: Annotations, shots: int, *, longest: int | None, seed: int
) -> Int64[np.ndarray, "I"]:
    """Draws images until each name is shown by so many, or by all that show it.

    Round by round each name gets the image that it lacks, the rarest first, so that the rounds of
    fewer shots are the first ones of more. An image counts for all names that it shows, and a
    frequent name may be in more images.

    Args:
        found: The file.
        shots: Images of each name.
        longest: Longest side that images will have: a box that becomes too small shows nothing.
        seed: The same gives the same.
    """
    shows = _shows(found, longest)
    order = np.random.default_rng(seed).permutation(len(shows))
    counts, rows = shows.sum(0), list[int]()
    seen, free = np.zeros_like(counts), np.ones(len(shows), dtype=bool)
    for least in range(1, shots + 1):
        for category in np.argsort(counts, kind="stable"):
            if seen[category] < min(least, counts[category]):
                row = int(order[free[order] & shows[order, category]][0])
                rows.append(row)
                free[row] = False
                seen += shows[row]
    return np.sort(np.array(rows, dtype=np.int64))


def _shows(found: Annotations, longest: int | None) -> Bool[np.ndarray, "I C"]:
    """Returns which images will show which categories when they have become smaller."""
    sides = found.sizes.max(1)
    scales = np.minimum(1.0, longest / sides) if longest else np.ones(len(sides))
    boxes, rows = found.boxes.values, found.boxes.rows
    large = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) * scales[rows] >= _LEAST_SIDE
    shows = np.zeros((len(sides), len(found.categories)), dtype=bool)
    shows[rows[large], found.labels.values[large]] = True
    return shows


def _covering(
    shows: Bool[np.ndarray, "I C"], order: Int64[np.ndarray, "I"], names: list[str], least: int
) -> dict[str, list[int]]:
    """Gives each part images of each category, the rarest first, until it is shown often enough.

    Of a category with too few images for all parts, each gets its share; the last gets the rest.
    """
    chosen: dict[str, list[int]] = {name: [] for name in names}
    seen = {name: np.zeros(shows.shape[1], dtype=np.int64) for name in names}
    free = np.ones(len(order), dtype=bool)
    counts = shows.sum(0)
    for category in np.argsort(counts, kind="stable"):
        share = min(least, int(counts[category]) // len(names))
        for name in names:
            rest = int(counts[category]) - share * (len(names) - 1)
            wanted = (min(least, rest) if name == names[-1] else share) - seen[name][category]
            mine = order[free[order] & shows[order, category]]
            for row in mine[: max(wanted, 0)].tolist():
                chosen[name].append(row)
                free[row] = False
                seen[name] += shows[row]
    return chosen


def _require_images(chosen: Sequence[dict[str, Any]], images: Path | None, file: Path) -> None:
    """Refuses images that are absent before the first is written."""
    paths = [image_path(each.get("file_name"), each.get("coco_url")) for each in chosen]
    refuse_paths_outside(Path("images"), paths, source=file, field="images.file_name")
    if images is None:
        missing = [each["id"] for each in chosen if not each.get("coco_url")]
        what, fix = "have no coco_url to fetch them by", "give their folder: --images"
    else:
        missing = [path for path in paths if not (images / path).is_file()]
        what, fix = f"do not exist in {images}", "give the folder that file_name is relative to"
    if missing:
        problem = f"{len(missing)} of {len(paths)} images {what}: {missing[0]!r}"
        raise InputError(problem, fix=fix, file=file, field="images")


def _write_images(
    chosen: Sequence[dict[str, Any]], images: Path | None, output: Path, longest: int | None
) -> dict[int, float]:
    """Writes images no larger than asked; returns the factor by which each became smaller."""

    def write(record: dict[str, Any]) -> tuple[int, float]:
        path = image_path(record.get("file_name"), record.get("coco_url"))
        source = (
            fetch(record["coco_url"], field="coco_url", most=_MOST_BYTES)
            if images is None
            else images / path
        )
        return record["id"], _write_image(source, output / path, record, longest)

    console = Console(stderr=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        done = pool.map(write, chosen)
        return dict(track(done, "images", len(chosen), console=console, transient=True))


def _write_image(source: Path, target: Path, record: dict[str, Any], longest: int | None) -> float:
    pixels = read_image(source)
    listed = (record["height"], record["width"])
    if pixels.shape[:2] != listed:
        problem = f"is {pixels.shape[1]} x {pixels.shape[0]}, listed as {listed[1]} x {listed[0]}"
        raise InputError(problem, fix="give the images that were annotated", file=source)
    scale = min(1.0, longest / max(listed)) if longest else 1.0
    with written_whole(target) as part:
        if scale == 1.0:
            part.write_bytes(source.read_bytes())
        else:
            small = Image.fromarray(pixels).resize(
                _size(record, scale)[::-1], Image.Resampling.LANCZOS
            )
            kind = "PNG" if target.suffix.lower() == ".png" else "JPEG"
            small.save(part, kind, quality=_QUALITY)
    return scale


def _size(record: dict[str, Any], scale: float) -> tuple[int, int]:
    return max(1, round(record["height"] * scale)), max(1, round(record["width"] * scale))


def _document(document: dict[str, Any], scales: dict[int, float]) -> dict[str, Any]:
    """Returns what a file says of some images, in pixels of the smaller ones.

    A box of less than a pixel is left out. In LVIS form its name is then no longer exhaustive in
    its image; in COCO form, which has no such list, it stays as a crowd, which counts neither way.
    """
    federated = any(map(is_federated, document["images"]))
    sizes = {each["id"]: each for each in document["images"] if each["id"] in scales}
    boxes, lost = list[dict[str, Any]](), dict[int, set[int]]()
    for each in document["annotations"]:
        if each["image_id"] in sizes:
            image = sizes[each["image_id"]]
            box = _smaller(each, image, _size(image, scales[image["id"]]))
            tiny = min(box["bbox"][2:]) < _LEAST_SIDE <= min(each["bbox"][2:])
            if tiny and federated:
                lost.setdefault(image["id"], set()).add(each["category_id"])
            else:
                boxes.append(box | ({"iscrowd": 1} if tiny else {}))
    images = [_image(each, scales[number], lost.get(number)) for number, each in sizes.items()]
    categories = _counted(document["categories"], boxes)
    kept = {key: value for key, value in document.items() if key in ("info", "licenses")}
    groups = {key: document[key] for key in ("category_groups",) if key in document}
    lists = {"images": images, "annotations": boxes, "categories": categories}
    return kept | groups | lists


def _smaller(box: dict[str, Any], image: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Returns a box in pixels of the smaller image, without its mask."""
    high, wide = size[0] / image["height"], size[1] / image["width"]
    x, y, width, height = box["bbox"]
    sides = [x * wide, y * high, width * wide, height * high]
    found = {key: value for key, value in box.items() if key != "segmentation"}
    area = {"area": box["area"] * wide * high} if box.get("area") is not None else {}
    return found | {"bbox": sides} | area


def _image(record: dict[str, Any], scale: float, lost: set[int] | None) -> dict[str, Any]:
    height, width = _size(record, scale)
    path = image_path(record.get("file_name"), record.get("coco_url"))
    found = record | {"file_name": path, "height": height, "width": width}
    if lost:
        found[NOT_EXHAUSTIVE] = sorted({*(record.get(NOT_EXHAUSTIVE) or ()), *lost})
    return found


def _counted(categories: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the categories with the counts of the set, where they have any."""
    counts: dict[str, dict[int, Any]] = {"image_count": {}, "instance_count": {}}
    for box in boxes:
        category = box["category_id"]
        counts["image_count"].setdefault(category, set()).add(box["image_id"])
        number = counts["instance_count"].get(category, 0) + 1
        counts["instance_count"][category] = number
    shown = {category: len(images) for category, images in counts["image_count"].items()}
    of = {"image_count": shown, "instance_count": counts["instance_count"]}
    return [
        each | {key: of[key].get(each["id"], 0) for key in of if key in each} for each in categories
    ]
