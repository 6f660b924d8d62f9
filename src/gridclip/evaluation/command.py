"""The command that scores anyone's detections."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gridclip.evaluation.detections import RULES, Protocol
from gridclip.evaluation.lvis import AT_50, evaluate, write_metrics
from gridclip.io.files import require_writable
from gridclip.io.run_metrics import LVIS_METRICS


def metrics_table(
    rows: Sequence[Mapping[str, object]], title: str, fractions: Collection[str] = LVIS_METRICS
) -> Table:
    """Runs as rows, in the columns that any of them has, in the order of their first appearance.

    Args:
        rows: Column name to value. What is missing, None or nan shows as a dash.
        title: What the figures are of: name the protocol and the data set in it.
        fractions: The columns that are shown in percent.
    """
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name, justify="right" if name in fractions else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(name), name in fractions) for name in columns))
    return table


def _cell(value: object, percent: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{100 * value:.1f}" if percent and isinstance(value, int | float) else str(value)


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
    figures = (*LVIS_METRICS, *AT_50)
    row = {name: getattr(metrics, name) for name in figures}
    Console().print(metrics_table([row], title, figures))
    if output is not None:
        write_metrics(metrics, output)
