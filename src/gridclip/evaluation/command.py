"""The command that scores anyone's detections."""

import math
from pathlib import Path

from gridclip.evaluation.detections import RULES, Protocol
from gridclip.evaluation.lvis import AT_50, evaluate, write_metrics
from gridclip.io.files import require_writable
from gridclip.io.run_metrics import LVIS_METRICS
from gridclip.io.tables import WholeTable, make_console


def evaluate_command(
    *,
    annotations: Path,
    detections: Path,
    protocol: Protocol = "standard",
    output: Path | None = None,
) -> None:
    """Score a file of detected boxes: LVIS AP overall, by size, and by frequency.

    Args:
        annotations: Json file in LVIS form, or plain COCO form taken as exhaustively annotated.
        detections: Json file in LVIS results form: a list of image_id, category_id, bbox
            [x, y, width, height] in pixels, and score. All images of the annotations are scored.
        protocol: standard (the best 300 boxes of an image, as LVIS defines AP) or fixed (the best
            10 000 boxes of a category). Figures of the two can't be compared.
        output: Where to write the figures as json, as fractions and with AP by category.
    """
    if output is not None:
        require_writable(output)
    metrics = evaluate(annotations, detections, protocol=protocol)
    title = (
        f"{metrics.dataset}, {metrics.num_images} images, AP in percent\n"
        f"{protocol} protocol: {RULES[protocol]}"
    )
    names = (*LVIS_METRICS, *AT_50)
    table = WholeTable(names, title=title)
    figures = (getattr(metrics, name) for name in names)
    table.add_row(*("–" if math.isnan(value) else f"{100 * value:.1f}" for value in figures))
    make_console().print(table)
    if output is not None:
        write_metrics(metrics, output)
