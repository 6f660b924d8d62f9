"""What does it cost to read the annotations of LVIS train, here and with lvis 0.5.3?

A synthetic file of the size of lvis_v1_train.json is written, polygons and all; then, each in a
process of its own: the first reading (which makes the index), a later start, `lvis.LVIS`, and four
workers that touch every column, started by fork and by spawn. At full size it needs some minutes,
2 GB of disk and 12 GB of memory (lvis's):  python benchmarks/annotation_index.py

A tiny run:  python benchmarks/annotation_index.py --images 1000
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

IMAGES, BOXES_PER_IMAGE, CATEGORIES = 100_170, 12.68, 1203  # lvis_v1_train.json: 1 270 141 boxes
CORNERS_PER_BOX = 48  # on average, so that the file is over 1 GB as the true one is
SHAPES = 5000  # distinct boxes
WORKERS = 4
MB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES, help="images of the file")
    parser.add_argument("--folder", type=Path, help="where to write it (it stays); else it goes")
    parser.add_argument("--without_lvis", action="store_true", help="leave lvis.LVIS out")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        question, file = settings.measure
        print(json.dumps(QUESTIONS[question](Path(file))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.folder or Path(temporary)
        file = folder / f"lvis_train_{settings.images}.json"
        if not file.exists():
            write_file(file, settings.images)
        time.sleep(2.5)  # what changed a moment ago is read anew, in case it changes again
        os.environ["GRIDCLIP_CACHE"] = str(Path(temporary) / "cache")
        print_machine(file)
        questions = [name for name in QUESTIONS if name != "lvis" or not settings.without_lvis]
        for question in questions:
            figures = measured(question, file)
            shown = "   ".join(f"{name} {value:8.1f}" for name, value in figures.items())
            print(f"{question:14} {shown}", flush=True)


def measured(question: str, file: Path) -> dict[str, float]:
    """Ask one question in a process of its own."""
    command = [sys.executable, __file__, "--measure", question, str(file)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return figures


def read_ours(file: Path) -> dict[str, float]:
    """Time from before the import of our reader; memory of the whole process, Python included."""
    start = time.perf_counter()
    from gridclip.data.annotations.reader import read_annotations

    imported = time.perf_counter()
    annotations = read_annotations(file)
    touch(annotations)
    return {
        "import s": imported - start,
        "read s": time.perf_counter() - imported,
        "CPU s": time.process_time(),  # of the whole process: what counts on a busy machine
        **memory(),
        "boxes": len(annotations.boxes.values),
    }


def read_lvis(file: Path) -> dict[str, float]:
    """The same with lvis.LVIS."""
    start = time.perf_counter()
    np.float = float  # type: ignore[attr-defined]  # a name that lvis 0.5.3 needs
    from lvis import LVIS

    imported = time.perf_counter()
    annotations = LVIS(str(file))
    return {
        "import s": imported - start,
        "read s": time.perf_counter() - imported,
        "CPU s": time.process_time(),  # of the whole process: what counts on a busy machine
        **memory(),
        "boxes": len(annotations.anns),
    }


def workers_by(method: str, file: Path) -> dict[str, float]:
    """Private memory (USS) that each of four workers has, and what of it the annotations are.

    The same workers are started with nothing in hand, and the difference is taken.
    """
    from gridclip.data.annotations.reader import read_annotations

    annotations = read_annotations(file)
    touch(annotations)
    with_nothing = private_memory(method, None)
    with_annotations = private_memory(method, annotations)
    return {
        "USS MB each": with_annotations,
        "USS MB each with nothing": with_nothing,
        "added MB each": with_annotations - with_nothing,
    }


def private_memory(method: str, payload: object) -> float:
    """Start workers that hold the payload all at once; give the mean of their USS."""
    context = multiprocessing.get_context(method)
    answers, stop = context.Queue(), context.Event()
    workers = [context.Process(target=work, args=(payload, answers, stop)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    sizes = [answers.get(timeout=600) for _ in workers]
    stop.set()
    for worker in workers:
        worker.join()
    return float(np.mean(sizes))


def work(payload: object, answers: "multiprocessing.Queue[float]", stop: object) -> None:
    import gridclip.data.annotations.reader  # noqa: F401 - so that both kinds of spawned workers have it

    if payload is not None:
        touch(payload)
    answers.put(memory()["USS MB"])
    stop.wait()  # type: ignore[attr-defined]


def touch(annotations: object) -> None:
    """Read every value once, image by image for the boxes, as an epoch does."""
    for row in range(len(annotations.image_ids)):  # type: ignore[attr-defined]
        annotations.boxes.of(row).sum()  # type: ignore[attr-defined]
        str(annotations.paths[row])  # type: ignore[attr-defined]
    for name in ("labels", "negative", "not_exhaustive"):
        getattr(annotations, name).values.sum()


def memory() -> dict[str, float]:
    """USS is a process's own memory; RSS counts mapped files that all processes share, too."""
    process = psutil.Process()
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    own = process.memory_full_info()
    return {"peak RSS MB": peak, "RSS MB": own.rss / MB, "USS MB": own.uss / MB}


def by_fork(file: Path) -> dict[str, float]:
    return workers_by("fork", file)


def by_spawn(file: Path) -> dict[str, float]:
    return workers_by("spawn", file)


QUESTIONS = {
    "first index": read_ours,
    "later start": read_ours,
    "workers, fork": by_fork,
    "workers, spawn": by_spawn,
    "lvis": read_lvis,
}


def print_machine(file: Path) -> None:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("lvis", "msgspec", "numpy")
    )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"Python {platform.python_version()}, {versions}")
    print(f"{file.name}: {file.stat().st_size / MB:.0f} MB")


def write_file(file: Path, images: int) -> None:
    """Write image by image, so that it needs no memory to speak of."""
    random = np.random.default_rng(0)
    with file.open("w") as stream:
        stream.write('{"info": {"description": "synthetic, of the size of LVIS v1 train"}')
        for name, rows in (
            ("categories", category_rows(images)),
            ("images", image_rows(images, random)),
            ("annotations", annotation_rows(images, random)),
        ):
            stream.write(f', "{name}": [')
            for number, row in enumerate(rows):
                stream.write((", " if number else "") + row)
            stream.write("]")
        stream.write("}")


def category_rows(images: int) -> Iterator[str]:
    for number in range(1, CATEGORIES + 1):
        count = 1 + images // number
        yield json.dumps(
            {"id": number, "name": f"category_{number}", "synonyms": [f"category {number}"]}
            | {"frequency": "rcf"[(count > 10) + (count > 100)], "synset": f"c.n.{number}"}
            | {"image_count": count, "instance_count": 2 * count, "def": "something synthetic"}
        )


def image_rows(images: int, random: np.random.Generator) -> Iterator[str]:
    for number in range(1, images + 1):
        absent = random.integers(1, CATEGORIES + 1, 10)
        yield json.dumps(
            {"id": number, "width": 640, "height": 480, "license": 1, "flickr_url": "http://f/1"}
            | {"coco_url": f"http://images.cocodataset.org/train2017/{number:012}.jpg"}
            | {"neg_category_ids": np.unique(absent).tolist(), "date_captured": "2013-11-14"}
            | {"not_exhaustive_category_ids": absent[:1].tolist()}
        )


def annotation_rows(images: int, random: np.random.Generator) -> Iterator[str]:
    """Long-tailed names; boxes are drawn from a pool of shapes, or writing would take longest."""
    tail = 1 / np.arange(1, CATEGORIES + 1)
    pool = [shape(random) for _ in range(SHAPES)]
    counts = random.poisson(BOXES_PER_IMAGE, images)
    names = random.choice(CATEGORIES, counts.sum(), p=tail / tail.sum()) + 1
    shapes = random.integers(0, SHAPES, counts.sum())
    rows = zip(np.repeat(np.arange(1, images + 1), counts), names, shapes, strict=True)
    for number, (image, name, drawn) in enumerate(rows, start=1):
        yield f'{{"id": {number}, "image_id": {image}, "category_id": {name}, {pool[drawn]}'


def shape(random: np.random.Generator) -> str:
    """A polygon, as long as chance will have it, and what follows from it."""
    length = 3 + random.geometric(1 / (CORNERS_PER_BOX - 3))
    polygon = random.uniform((20, 20), (600, 460), (length, 2)).round(2)
    low, high = polygon.min(0), polygon.max(0)
    box = [*low.tolist(), *(high - low).round(2).tolist()]
    keys = {"bbox": box, "area": round(box[2] * box[3], 2)}
    return json.dumps(keys | {"segmentation": [polygon.ravel().tolist()]})[1:]


if __name__ == "__main__":
    main()
