"""Arrays, columns, images, lists of them and sweeps of a stranger, each made by code."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from hostile_world import Case, Open, Payload, World, bomb
from PIL import Image

from gridclip.data.annotations.reader import read_annotations
from gridclip.data.category_names import read_names
from gridclip.data.datasets.detection import check_images
from gridclip.data.images.decode import read_image
from gridclip.data.images.pack import pack
from gridclip.data.images.shards import INDEX, open_shards
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.pseudo_labels import FORM as LABELS
from gridclip.data.precomputed.pseudo_labels import PseudoLabels
from gridclip.data.precomputed.stored import StoredEmbeddings, StoredProposals
from gridclip.io.column_store import write_columnar
from gridclip.models.encoders.text import TextVectors
from gridclip.sweeps.results.report import write_report
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.trial import Trial


def vectors(write: Callable[[Path], object]) -> Callable[[World], Open]:
    def make(world: World) -> Open:
        file, names = world.root / "v.npy", world.root / "names.txt"
        write(file)
        names.write_text("cup\ncat\n")
        return lambda: TextVectors(str(file), str(names))

    return make


def npy(shape: str) -> bytes:
    """A .npy file whose header says this shape, and eight bytes."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(8)


def columns(kind: Callable[[Path], object], form: str, **listed: object) -> Callable:
    """A file of columns whose header is written by hand, and eight bytes."""

    def make(world: World) -> Open:
        file = world.root / "c.safetensors"
        head = json.dumps({"__metadata__": {"form": form}, **listed}).encode()
        file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
        return lambda: kind(file)

    return make


def entry(shape: list[int], dtype: str = "F64", place: tuple[int, int] = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(place)}


def shards(**changes: object) -> Callable[[World], Open]:
    """Packed images whose index was changed: its note of the shards, or a column."""

    def make(world: World) -> Open:
        (world.root / "in").mkdir()
        Image.new("RGB", (4, 4)).save(world.root / "in" / "a.png")
        packed = pack(open_images(world.root / "in"), world.root / "s", shard_bytes=9999)
        index = packed.index
        old = {name: np.array(index.column(name)) for name in index.names}
        listed = changes.pop("files", None)
        new = {name: np.full_like(old[name], value) for name, value in changes.items()}
        notes = {key: note for key, note in index.header.items() if key != "form"}
        notes |= {} if listed is None else {"shards": json.dumps(listed)}
        write_columnar(world.root / "s" / INDEX, index.form, notes, old | new)
        return lambda: open_shards(world.root / "s")

    return make


def picture(name: str, content: bytes) -> Callable[[World], Open]:
    def make(world: World) -> Open:
        file = world.root / name
        file.write_bytes(content)
        return lambda: read_image(file)

    return make


def bmp(width: int, height: int) -> bytes:
    head = [40, width, height, 1 | 24 << 16, 0, 0, 0, 0, 0, 0]
    return (
        b"BM"
        + bytes(8)
        + (54).to_bytes(4, "little")
        + b"".join(number.to_bytes(4, "little") for number in head)
    )


def annotated(path: str) -> Callable[[World], Open]:
    def make(world: World) -> Open:
        image = {"id": 1, "file_name": path, "width": 4, "height": 4}
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
        document = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
        file = world.root / "train.json"
        file.write_text(json.dumps(document))
        Image.new("RGB", (4, 4)).save(world.root / "secret.png")
        return lambda: check_images(read_annotations(file), world.root / "images")

    return make


def captions(world: World) -> Open:
    (world.root / "in").mkdir()
    (world.root / "in" / "captions.txt").write_text("image,caption\n../secret.png,a cup\n")
    return lambda: open_images(world.root / "in")


def nested_names(world: World) -> Open:
    (world.root / "names.json").write_text("[" * 100_000)
    return lambda: read_names(world.root / "names.json")


SWEEP = """
method: grid
metric: {name: val/AP, goal: maximize}
parameters: {x: {values: [1]}}
command: [train, "${args}"]
"""


def sweep(plant: Callable[[Path, Path], object]) -> Callable[[World], Open]:
    """A sweep of one trial, in whose folder something leads to a secret."""

    def make(world: World) -> Open:
        secret = world.root / "secret.txt"
        secret.write_text("# secret")
        folder = world.root / "sweeps" / "s"
        place = folder / "trials" / "001"
        (place / "pictures").mkdir(parents=True)
        (folder / "sweep.yaml").write_text(SWEEP)
        (place / "metrics.json").write_text('{"AP": 0.5}')
        plant(place, secret)
        now = datetime.now(UTC)
        trial = Trial(
            number=1, folder=place, point={"x": 1}, argv=(), run_id="r", started=now, state="failed"
        )
        trials = [replace(trial, state="finished", ended=now)]
        return lambda: write_report(read_sweep(folder / "sweep.yaml"), folder, trials)

    return make


def example(path: str) -> Callable[[World], Open]:
    def plant(place: Path, secret: Path) -> None:
        listed = [{"picture": path.format(secret=secret)}]
        (place / "pictures" / "examples.json").write_text(json.dumps(listed))
        (place / "pictures" / "link.jpg").symlink_to(secret)

    return sweep(plant)


def linked(name: str) -> Callable[[World], Open]:
    def plant(place: Path, secret: Path) -> None:
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(secret)

    return sweep(plant)


def sweep_file(text: str) -> Callable[[World], Open]:
    def make(world: World) -> Open:
        (world.root / "sweep.yaml").write_text(text)
        return lambda: read_sweep(world.root / "sweep.yaml")

    return make


LEADS = "leads to .*secret.txt"
PICTURE = r"\[0\].picture"
NO_FILE = "no file of this kind"
OUTSIDE = "1 images would lie outside"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(pwned) (w) file\n"


def embeddings(**listed: object) -> Callable[[World], Open]:
    return columns(StoredEmbeddings, "gridclip embeddings 1", **listed)


def _pickle(file: Path) -> None:
    np.save(file, np.array([Payload()]), allow_pickle=True)


def _large(file: Path) -> None:
    file.write_bytes(npy("(10000000000000, 2)"))


CASES = [
    Case("pickled array", vectors(_pickle), "v.npy", "", "cannot be read"),
    Case("large array", vectors(_large), "v.npy", "", "cannot be read"),
    Case("long column", embeddings(e=entry([10**15])), "c.safetensors", "", NO_FILE),
    Case("negative column", embeddings(e=entry([-1, -1])), "c.safetensors", "", NO_FILE),
    Case("late column", embeddings(e=entry([1], "F64", (0, 9))), "c.safetensors", "", NO_FILE),
    Case("column of objects", embeddings(e=entry([1], "OBJECT")), "c.safetensors", "", NO_FILE),
    Case(
        "no note",
        columns(StoredProposals, "gridclip proposals 1", e=entry([1])),
        "c.safetensors",
        "fingerprint",
        "its header lacks",
    ),
    Case(
        "no column",
        columns(PseudoLabels, LABELS, e=entry([1])),
        "c.safetensors",
        "sizes",
        "has no column",
    ),
    Case("PostScript", picture("a.jpg", POSTSCRIPT), "a.jpg", "", "UnidentifiedImage"),
    Case("image of 2.5e9 pixels", picture("a.png", bmp(50_000, 50_000)), "a.png", "", "Bomb"),
    Case(
        "image beside its folder",
        annotated("../secret.png"),
        "train.json",
        "images.file_name",
        OUTSIDE,
        "give the folder that holds all images",
    ),
    Case("image anywhere", annotated("/etc/passwd"), "train.json", "images.file_name", OUTSIDE),
    Case("caption of an image elsewhere", captions, "captions.txt", "image", OUTSIDE),
    Case(
        "shard elsewhere",
        shards(files=[["../../etc/passwd", 1]]),
        "index.safetensors",
        "shards",
        "names no files beside it",
    ),
    Case("image after its shard", shards(offsets=2**62), "index.safetensors", "", "outside"),
    Case("image before its shard", shards(offsets=-5), "index.safetensors", "", "outside"),
    Case("aliases in a sweep", sweep_file(bomb()), "sweep.yaml", "", "stands for more"),
    Case("nesting in a sweep", sweep_file("a: " + "[" * 10_000), "sweep.yaml", "", "YAML"),
    Case("names without end", nested_names, "names.json", "", "json"),
    Case("picture by path", example("../../../../../secret.txt"), "examples.json", PICTURE, LEADS),
    Case("picture anywhere", example("{secret}"), "examples.json", PICTURE, LEADS),
    Case("picture by link", example("link.jpg"), "examples.json", PICTURE, LEADS),
    Case("log by link", linked("log.txt"), "log.txt", "", LEADS),
    Case("figures by link", linked("metrics.json"), "metrics.json", "", LEADS),
]
