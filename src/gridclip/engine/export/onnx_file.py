"""From a detection graph to an ONNX file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gridclip.io.errors import needing
from gridclip.io.files import written_whole
from gridclip.models.dense.detection_graph import DetectionGraph

OPSET = 18
INPUTS, OUTPUTS = ("image", "text"), ("boxes", "scores", "labels")

_NO_LIMIT = 2**31 - 1
_OTHERS, _LEAST = -2.0, -0.5  # scores: of boxes of other categories; what is no box lies below
# Of the image that a graph is traced with: a side of a level's map that is 1 would be taken for 1
# whatever the image.
_TRACED = (300, 420, 3)


def write_onnx(graph: DetectionGraph, file: Path, facts: Mapping[str, str]) -> None:
    """Writes a graph, for any size of image and any number of names.

    Args:
        graph: The graph.
        file: Where to write it, whole or not at all.
        facts: Metadata of the file.

    Raises:
        InputError: if the packages of the extra are not installed.
    """
    with needing("export"):
        import onnx  # noqa: F401 - the exporter needs both
        import onnxscript  # noqa: F401
    given: list[Tensor] = [torch.zeros(_TRACED, dtype=torch.uint8)]
    sizes: list[dict[int, Any]] = [{0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}]
    if not graph.fixed:
        given.append(torch.randn(7, graph.detector.text.width))
        sizes.append({0: torch.export.Dim.DYNAMIC})
    with torch.no_grad(), _quiet():
        # Sizes of the pyramid are rounded up, in ways that the solver of guards cannot follow.
        program = torch.export.export(
            graph.eval(),
            tuple(given),
            dynamic_shapes=tuple(sizes),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS[: len(given)],
            output_names=OUTPUTS,
            custom_translation_table={torch.ops.gridclip.unsuppressed.default: _suppression},
            verbose=False,
        )
    assert made is not None  # nothing is, where a file is named
    _name_sizes(made.model.graph)
    made.model.metadata_props.update(facts)
    made.model.producer_name = "gridclip"
    with written_whole(file) as part:
        made.save(part, external_data=False)


def _name_sizes(graph: Any) -> None:  # noqa: ANN401 - onnx_ir's
    """Names the sizes that vary, as whoever looks at the file will read them."""
    from onnx_ir import Shape

    image, *text = graph.inputs
    image.shape = Shape(["height", "width", 3])
    for each in text:
        each.shape = Shape(["names", each.shape[1]])
    for each in graph.outputs:
        each.shape = Shape(["found", *each.shape[1:]])


def _suppression(
    boxes: Any,  # noqa: ANN401 - values of a graph, which onnxscript does not type
    scores: Any,  # noqa: ANN401
    labels: Any,  # noqa: ANN401
    categories: Any,  # noqa: ANN401
    iou: float,
) -> Any:  # noqa: ANN401
    """Makes `unsuppressed` of ONNX's operator, which takes a score of every box and category."""
    from onnxscript import opset18 as op

    own = op.Equal(op.Unsqueeze(labels, [0]), op.Unsqueeze(categories, [1]))
    others = op.Constant(value_float=_OTHERS)
    by_category = op.Where(own, op.Unsqueeze(scores, [0]), others)
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, [0]),
        op.Unsqueeze(by_category, [0]),
        op.Constant(value_ints=[_NO_LIMIT]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[_LEAST]),
    )
    rows = op.Squeeze(op.Slice(chosen, [2], [3], [1]), [1])
    kept = op.CastLike(op.Mul(labels, op.Constant(value_int=0)), op.Constant(value_float=0.0))
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(rows))
    return op.Cast(op.ScatterElements(kept, rows, ones, axis=0), to=9)  # bool


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own reports of its steps from the screen."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [each.level for each in loud]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for each in loud:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loud, levels, strict=True):
                each.setLevel(level)


def to_openvino(onnx_file: Path, file: Path, facts: Mapping[str, str]) -> None:
    """Writes an ONNX file in OpenVINO's form: an .xml, and its weights in a .bin beside it.

    Raises:
        InputError: if the packages of the extra are not installed.
    """
    with needing("openvino"):
        import openvino
    model = openvino.convert_model(onnx_file)
    for name, value in facts.items():
        model.set_rt_info(value, name)
    openvino.save_model(model, file, compress_to_fp16=False)
