"""The command that scores anyone's detections."""

import math
from pathlib import Path

from gridclip.evaluation.detections import RULES, Protocol, read_detections
from gridclip.evaluation.error_page import write_errors
from gridclip.evaluation.errors import KINDS, Errors, find_errors
from gridclip.evaluation.false_alarms import LIMIT
from gridclip.evaluation.ground_truth import GroundTruth
from gridclip.evaluation.lvis import AT_50, Metrics, choose, measure, measure_masks, write_metrics
from gridclip.evaluation.matching import match
from gridclip.io.files import require_writable
from gridclip.io.matches import matches_file, write_matches
from gridclip.io.run_metrics import FALSE_ALARM_METRICS, LVIS_METRICS, group_metrics, of_masks
from gridclip.io.tables import WholeTable, make_console, say


def evaluate_command(  # noqa: PLR0913 - a command has as many options as it has
    *,
    annotations: Path,
    detections: Path,
    protocol: Protocol = "standard",
    groups: Path | None = None,
    false_alarms: float = LIMIT,
    output: Path | None = None,
    errors: Path | None = None,
    images: Path | None = None,
    masks: bool = False,
) -> None:
    """Score a file of detected boxes: LVIS AP overall, by size, and by frequency.

    Args:
        annotations: Json file in LVIS form, or plain COCO form taken as exhaustively annotated.
        detections: Json file in LVIS results form: a list of image_id, category_id, bbox
            [x, y, width, height] in pixels, and score. All images of the annotations are scored.
        protocol: standard (the best 300 boxes of an image, as LVIS defines AP) or fixed (the best
            10 000 boxes of a category). Figures of the two can't be compared.
        groups: Json file of named groups of categories, {"novel": [ids or names]}, beside those of
            the annotations (category_groups). Each gets an AP and an AP50 of its own.
        false_alarms: How many boxes of a name that is verified to be absent from an image are
            allowed on average, for APfa: the AP of the boxes above the score that keeps to it.
        output: Where to write the figures as json, as fractions and with AP by category. Beside it,
            OUTPUT.matches.safetensors says which boxes are right, image by image.
        errors: Folder for an analysis of errors, by frequency, group and size: errors.json, and
            errors.html with the worst images.
        images: Folder of the images, for that page; by default the folder images beside the
            annotations.
        masks: Score masks too, as segm_AP and so on: every detection needs a segmentation
            {size, counts} as COCO codes it, and every annotation such a code or polygons.
    """
    if output is not None:
        require_writable(output)
    if errors is not None:
        require_writable(errors / "errors.json", field="errors")
    truth = GroundTruth.of(annotations, groups, masks=masks)
    table = read_detections(detections, masks=masks)
    scored = choose(truth, table, protocol=protocol, file=detections)
    metrics = measure(scored, false_alarms=false_alarms)
    if masks:
        shapes = choose(truth, table, protocol=protocol, kind="segm")
        metrics = metrics._replace(of_masks=measure_masks(shapes))
    if output is not None:
        write_matches(match(scored), matches_file(output))
        write_metrics(metrics, output)  # first: a terminal that fails must not cost the figures
    console = make_console()
    console.print(_whole_table(metrics))
    if masks:
        console.print(_mask_table(metrics))
    console.print(_alarm_table(metrics))
    if truth.groups:
        console.print(_group_table(truth, metrics))
    if errors is not None:
        found = find_errors(scored)
        shown = write_errors(found, scored, errors, images)
        console.print(_error_table(found))
        blank = "" if shown else "; images are missing there, name their folder by --images"
        say(console, f"errors: {errors / 'errors.html'}{blank}")


def _error_table(errors: Errors) -> WholeTable:
    title = "what AP50 would gain without a kind of error (TIDE), in points"
    table = WholeTable(("part", "AP50", *KINDS), left=["part"], title=title)
    for part in errors.parts:
        gains = (f"{100 * part.gains[each]:+.1f}" for each in KINDS)
        table.add_row(part.name, _percent(part.base), *gains)
    return table


def _group_table(truth: GroundTruth, metrics: Metrics) -> WholeTable:
    headings = ("group", "categories", "AP", "AP50")
    table = WholeTable(headings, left=["group"], title="named groups of categories")
    for group, rows in truth.groups.items():
        figures = (metrics.of_groups[name] for name in group_metrics(group))
        table.add_row(group, str(len(rows)), *map(_percent, figures))
    return table


def _whole_table(metrics: Metrics) -> WholeTable:
    title = (
        f"{metrics.dataset}, {metrics.num_images} images, AP in percent\n"
        f"{metrics.protocol} protocol: {RULES[metrics.protocol]}"
    )
    names = (*LVIS_METRICS, *AT_50)
    table = WholeTable(names, title=title)
    table.add_row(*(_percent(getattr(metrics, name)) for name in names))
    return table


def _mask_table(metrics: Metrics) -> WholeTable:
    title = "by the overlap of masks, not of boxes (segm_AP and so on)"
    table = WholeTable(LVIS_METRICS, title=title)
    table.add_row(*(_percent(metrics.of_masks[of_masks(name)]) for name in LVIS_METRICS))
    return table


def _alarm_table(metrics: Metrics) -> WholeTable:
    assert metrics.false_alarms is not None  # `evaluate` says how many there are
    limit, rate, threshold = metrics.false_alarms
    title = "AP of the boxes above one score, at few detections an image and absent name"
    headings = ("allowed", "reached", "score above", *FALSE_ALARM_METRICS)
    table = WholeTable(headings, title=title)
    figures = (_percent(getattr(metrics, name)) for name in FALSE_ALARM_METRICS)
    cells = (f"{value:.4g}" if math.isfinite(value) else "–" for value in (rate, threshold))
    table.add_row(f"{limit:g}", *cells, *figures)
    return table


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"
