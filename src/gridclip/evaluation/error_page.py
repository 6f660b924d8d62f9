"""What `gridclip evaluate --errors` leaves: errors as json, and as one page that asks nobody.

The page has no script, and its images are inside.
"""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gridclip.data.annotations.schema import image_path
from gridclip.data.images.decode import read_image
from gridclip.evaluation.errors import KINDS, Calibration, Errors, Part, WorstImage
from gridclip.evaluation.lvis import Scored
from gridclip.io.errors import InputError
from gridclip.io.files import refuse_paths_outside, write_text
from gridclip.io.json_table import read_json

SIDE = 480  # pixels, of the longest side of an image on the page
GAINS = {**KINDS, "FP": "any wrong box", "FN": "any object that is missed"}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child, .names th, .names td { text-align: left; }
.scroll { overflow-x: auto; }
.note { color: #555; max-width: 48rem; }
.images { display: grid; gap: 1.5rem; }
.images { grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }
figure { margin: 0; } figure svg { height: auto; width: 100%; }
figcaption, svg text { font-size: 13px; }
rect { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; }
.right { stroke: #1a9850; } .wrong { stroke: #d73027; }
.missed { stroke: #fdb863; stroke-dasharray: 6 3; }
.bar { fill: #4575b4; stroke: none; } .axis, .even { fill: none; stroke: #999; }
.even { stroke-dasharray: 4 4; }
"""


def write_errors(errors: Errors, scored: Scored, folder: Path, images: Path | None) -> bool:
    """Writes errors.json and errors.html into a folder.

    Args:
        errors: What was found.
        scored: What it was found in.
        folder: Made if need be.
        images: The folder of the images; by default the folder images beside the annotations.

    Returns:
        Whether the images were there to be shown; the page has the boxes alone otherwise.

    Raises:
        InputError: if the annotations name images outside their folder.
    """
    files = _files(scored.truth.file, images, [each.id for each in errors.images])
    there = [each for each in files.values() if each.is_file()]
    write_text(folder / "errors.json", json.dumps(to_json(errors, scored), indent=2) + "\n")
    write_text(folder / "errors.html", make_page(errors, scored, files))
    return len(there) == len(files)


def to_json(errors: Errors, scored: Scored) -> dict[str, Any]:
    """Returns everything in the form of json: AP as fractions, boxes as in the annotations."""
    return {
        "dataset": scored.truth.dataset,
        "protocol": scored.protocol,
        "num_images": len(scored.truth.image_ids),
        "iou": 0.5,
        "least_score": errors.least,
        "parts": [
            each._asdict() | {"calibration": _calibration(each.calibration)}
            for each in errors.parts
        ],
        "confusions": [each._asdict() for each in errors.confusions],
        "images": [each._asdict() for each in errors.images],
    }


def _calibration(each: Calibration) -> dict[str, Any]:
    return each._asdict() | {"error": None if math.isnan(each.error) else each.error}


def _files(annotations: Path, folder: Path | None, ids: Sequence[int]) -> dict[int, Path]:
    """Returns the files of some images, whether they are there or not."""
    root = folder or annotations.parent / "images"
    wanted = set(ids)
    document: Any = read_json(annotations)  # which has been read and checked before
    rows = [row for row in document["images"] if row["id"] in wanted]
    paths = {
        row["id"]: image_path(row.get("file_name"), str(row.get("coco_url") or "")) for row in rows
    }
    refuse_paths_outside(root, paths.values(), source=annotations, field="images[].file_name")
    return {image: root / path for image, path in paths.items()}


def make_page(errors: Errors, scored: Scored, files: Mapping[int, Path]) -> str:
    """Returns the page.

    Args:
        errors: What was found.
        scored: What it was found in.
        files: Of the worst images, by id; one that is not there is left blank.
    """
    title = f"errors on {scored.truth.dataset}"
    facts = f"{len(scored.truth.image_ids)} images, {scored.protocol} protocol, IoU of 0.5"
    shown = "".join(_figure(each, files.get(each.id)) for each in errors.images)
    sections = [
        f"<h1>{_safe(title)}</h1><p class=note>{_safe(facts)}. A box of a name that is not verified"
        " in its image counts nowhere.</p>",
        "<h2>What each kind of error costs</h2><p class=note>AP50 in percent, and the points that"
        " it would gain without a kind of error (TIDE).</p>",
        _table(["", "AP50", *GAINS], map(_gains, errors.parts)),
        _list(GAINS),
        "<h2>How many there are</h2><p class=note>Of boxes of any score.</p>",
        _table(["", *KINDS, "gap of scores"], map(_counts, errors.parts)),
        "<h2>Are scores the share of boxes that are right?</h2><p class=note>A bar is the share of"
        " right boxes among those of a score; on the dashed line both are equal. The gap of scores"
        " above is the mean distance (ECE).</p>",
        _diagram(errors.parts[0].calibration),
        f"<h2>Objects that got another name</h2><p class=note>By boxes of {errors.least:g} or more,"
        " at an IoU of 0.5.</p>",
        _table(["object", "named", "times"], _confused(errors), kind="names"),
        f"<h2>The worst images</h2><p class=note>By boxes of {errors.least:g} or more: right ones"
        " green, wrong ones red, missed objects dashed.</p>",
        f"<div class=images>{shown}</div>",
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport"
        ' content="width=device-width"><meta http-equiv=Content-Security-Policy'
        " content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_safe(title)}</title><style>{_STYLE}</style><body>{''.join(sections)}</body></html>\n"
    )


def _safe(text: str) -> str:
    return html.escape(text)


def _table(headings: Sequence[str], rows: Any, kind: str = "figures") -> str:  # noqa: ANN401
    head = "".join(f"<th scope=col>{_safe(each)}</th>" for each in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    )
    table = f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=scroll tabindex=0>{table}</div>"


def _list(words: Mapping[str, str]) -> str:
    told = "; ".join(f"{name}: {meaning}" for name, meaning in words.items())
    return f"<p class=note>{_safe(told)}.</p>"


def _label(part: Part) -> str:
    return f"group {part.name}" if part.kind == "group" else part.name


def _gains(part: Part) -> list[str]:
    return [_label(part), f"{100 * part.base:.1f}", *(f"{100 * part.gains[k]:+.1f}" for k in GAINS)]


def _counts(part: Part) -> list[str]:
    gap = part.calibration.error
    return [
        _label(part),
        *(str(part.counts[each]) for each in KINDS),
        "–" if math.isnan(gap) else f"{gap:.3f}",
    ]


def _confused(errors: Errors, most: int = 30) -> list[list[str]]:
    return [[each.truth, each.named, str(each.times)] for each in errors.confusions[:most]]


def _diagram(told: Calibration) -> str:
    bars = "".join(
        f'<rect class=bar x="{30 + 30 * row}" y="{310 - 300 * right:.1f}" width="28"'
        f' height="{300 * right:.1f}"><title>{count} boxes of a mean score of {score:.2f}:'
        f" {100 * right:.0f} % right</title></rect>"
        for row, (count, score, right) in enumerate(
            zip(told.counts, told.scores, told.right, strict=True)
        )
        if count
    )
    return (
        '<svg viewBox="0 0 340 345" width=340 role=img aria-label="Share of right boxes by score">'
        f'{bars}<path class=even d="M30 310 L330 10"/><path class=axis d="M30 10 V310 H330"/>'
        "<text x=26 y=20 text-anchor=end>1</text><text x=26 y=314 text-anchor=end>0</text>"
        "<text x=330 y=328 text-anchor=end>score 1</text><text x=36 y=20>right</text></svg>"
    )


def _figure(worst: WorstImage, file: Path | None) -> str:
    picture, width, height = _picture(worst, file)
    boxes = [_box("right", f"{name} {score:.2f}", box) for name, score, box in worst.right] + [
        _box("wrong", f"{name} {score:.2f}", box) for name, score, box in worst.wrong
    ]
    boxes += [_box("missed", name, box) for name, box in worst.missed]
    told = f"image {worst.id}: {len(worst.wrong)} wrong, {len(worst.missed)} missed"
    names = ", ".join(f"{name} {score:.2f}" for name, score, _ in worst.wrong[:5])
    missed = ", ".join(name for name, _ in worst.missed[:5])
    more = f"<br>wrong: {_safe(names)}" * bool(names) + f"<br>missed: {_safe(missed)}" * bool(
        missed
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}">{picture}{"".join(boxes)}</svg>'
        f"<figcaption>{_safe(told)}{more}</figcaption></figure>"
    )


def _picture(worst: WorstImage, file: Path | None) -> tuple[str, int, int]:
    """Returns the image as it is stored, and its size; if it is not there, room for the boxes."""
    try:
        pixels = read_image(file) if file is not None and file.is_file() else None
    except InputError:
        pixels = None
    if pixels is None:
        boxes = [box for _, _, box in (*worst.right, *worst.wrong)]
        boxes += [box for _, box in worst.missed]
        right, bottom = (math.ceil(max(box[k] + box[k + 2] for box in boxes)) for k in (0, 1))
        return "", right, bottom
    height, width, _ = pixels.shape
    small = Image.fromarray(pixels)
    small.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    size = f'width="{width}" height="{height}"'
    return f'<image {size} href="data:image/jpeg;base64,{data}"/>', width, height


def _box(kind: str, text: str, box: Sequence[float]) -> str:
    x, y, width, height = box
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f"<rect class={kind} {place}><title>{_safe(text)}</title></rect>"
