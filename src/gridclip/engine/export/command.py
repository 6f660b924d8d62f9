"""The command that writes a trained detector as a file for other runtimes."""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Literal

from gridclip.engine.detect.command import names_of
from gridclip.io.errors import InputError, needing
from gridclip.io.files import require_writable
from gridclip.structures import Vocabulary

ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}


def export_command(  # noqa: PLR0913 - a command has as many options as it has
    run: Path,
    *,
    output: Path,
    names: str = "",
    names_as_input: bool = False,
    format: Literal["onnx", "openvino"] = "onnx",
    nms: Literal["inside", "outside"] = "inside",
    trust: bool = False,
) -> None:
    """Write a trained detector as one file: an image in, boxes, scores and labels out.

    Padding and normalisation are inside; images are resized before, as the file says. The score is
    that of the run, names that compete included.

    Args:
        run: Folder of a training of GridCLIP or DetCLIPv2.
        output: The file: .onnx, or .xml for OpenVINO (its weights go to .bin beside it).
        names: What it finds: "a cup, a cat", or a file of names, one a line.
        names_as_input: In place of names: their vectors are a second input, as many as you like.
        format: For which runtime.
        nms: Whether suppression is inside; outside, the candidates leave, overlapping.
        trust: Import also classes that the run names from elsewhere, such as your own.
    """
    if bool(names) == names_as_input:
        fix = 'give either --names "a cup, a cat" or --names-as-input'
        raise InputError("names are given twice, or not at all", field="names", fix=fix)
    if output.suffix != ENDINGS[format]:
        fix = f"give a name that ends in {ENDINGS[format]}"
        raise InputError(f"{output} is no name for {format}", field="output", fix=fix)
    require_writable(output)
    vocabulary = None if names_as_input else Vocabulary(names_of(names))
    with needing("openvino" if format == "openvino" else "export"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if format == "openvino":
            import openvino  # noqa: F401
    _export(run, vocabulary, output, format == "openvino", nms, trust=trust)
    what = "any names, as vectors" if vocabulary is None else f"{len(vocabulary)} names"
    sys.stdout.write(f"{output}: finds {what}; gridclip.load opens it\n")


def _export(
    run: Path,
    vocabulary: Vocabulary | None,
    output: Path,
    openvino: bool,
    nms: Literal["inside", "outside"],
    *,
    trust: bool,
) -> None:
    """Exports, once all arguments are known to be right; torch is imported here."""
    import gridclip
    from gridclip.engine.export.facts import Facts, Vectors
    from gridclip.engine.export.onnx_file import to_openvino, write_onnx
    from gridclip.engine.predictor import load_run
    from gridclip.engine.recipe import read_recipe
    from gridclip.models.dense.detection_graph import DetectionGraph
    from gridclip.models.dense.detector import DenseDetector

    trained = load_run(run, trust=trust)
    detector = trained.detector
    if not isinstance(detector, DenseDetector):
        raise InputError(
            f"{type(detector).__name__} has a second stage, which is not exported",
            file=run,
            field="run",
            fix="give a run of GridCLIP or DetCLIPv2",
        )
    graph = DetectionGraph(detector, vocabulary, nms == "inside")
    known, text = detector.trained_on, detector.text
    facts = Facts(
        version=gridclip.__version__,
        detector=type(detector).__name__,
        run=run.resolve().name,
        names=None if vocabulary is None else vocabulary.names,
        width=text.width,
        vectors=None
        if vocabulary is not None or known is None
        else Vectors.of(known.names, text(known).cpu().numpy()),
        text=None
        if any(True for _ in text.parameters())  # it learned, so a recipe does not make it again
        else read_recipe(run / "config.yaml")["model"]["detector"]["init_args"]["text"],
        fingerprint=text.fingerprint(),
        resize=dataclasses.replace(trained.resize),
        decoding=detector.decoding,
        nms=nms,
    )
    if not openvino:
        write_onnx(graph, output, facts.written())
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        write_onnx(graph, made, facts.written())
        to_openvino(made, output, facts.written())
