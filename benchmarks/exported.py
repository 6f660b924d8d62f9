"""How fast is GridCLIP-R50 as an ONNX file and in OpenVINO, against eager PyTorch?

One image of 800 × 1333, 80 and 1203 names as an input, suppression included, random weights, all in
turn. The names were not trained on, so they compete with one another alone. About five minutes:
python benchmarks/exported.py
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import _networks
import _timing
import numpy as np
import torch

import gridclip
from gridclip.data.transforms.augment import Resize
from gridclip.engine.export.exported import ExportedDetector
from gridclip.engine.export.facts import Facts, Vectors
from gridclip.engine.export.onnx_file import to_openvino, write_onnx
from gridclip.models.dense.detection_graph import DetectionGraph

KINDS = {"onnxruntime": "model.onnx", "OpenVINO": "model.xml"}


def main() -> None:
    given = _timing.arguments(__doc__, num_convs=4)
    size, counts = (_networks.SMALL, (5,)) if given.quick else (_networks.FULL, (80, 1203))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        detector = exported(Path(folder), size, max(counts), given.num_convs)
        for count in counts:
            taken = _timing.seconds(sides(detector, Path(folder), size, count), given.rounds)
            peer = taken.pop("eager")
            for name, ours in taken.items():
                what = f"detect {size[0]} × {size[1]}, {count} names, {name}: time of eager PyTorch"
                rows.append(_timing.row(what, ours, peer, "–", faster=False))
    _timing.report(rows, given)


def exported(folder: Path, size: tuple[int, int], names: int, num_convs: int) -> torch.nn.Module:
    """Writes a detector in both forms, with the vectors of its names."""
    detector = _networks.gridclip(num_convs).eval()
    vocabulary = _networks.names(names)
    facts = Facts(
        version=gridclip.__version__,
        detector="GridCLIP",
        run="benchmark",
        names=None,
        width=detector.text.width,
        vectors=Vectors.of(vocabulary.names, detector.text(vocabulary).numpy()),
        text=None,
        fingerprint="",
        resize=Resize(shortest=(min(size),), longest=max(size)),
        decoding=detector.decoding,
        nms="inside",
    ).written()
    write_onnx(DetectionGraph(detector, None, suppress=True), folder / "model.onnx", facts)
    to_openvino(folder / "model.onnx", folder / "model.xml", facts)
    return detector


def sides(
    detector: torch.nn.Module, folder: Path, size: tuple[int, int], count: int
) -> dict[str, Callable[[], object]]:
    vocabulary, images = _networks.names(count), _networks.images(size)
    pixels = np.ascontiguousarray(images.pixels[0, :, : size[0], : size[1]].permute(1, 2, 0))
    records = _networks.records(size)
    runs: dict[str, Callable[[], object]] = {
        "eager": lambda: detector.detect(images, vocabulary, records)
    }
    for name, file in KINDS.items():
        finder = ExportedDetector(folder / file)
        runs[name] = lambda finder=finder: finder.search([pixels], vocabulary)
    return runs


if __name__ == "__main__":
    main()
