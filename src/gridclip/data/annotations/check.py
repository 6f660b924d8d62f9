"""The command that lists every problem of an annotation file, and writes a repaired copy."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from gridclip.data.annotations.coco_json import GROUPS, CocoLists, parse_lists
from gridclip.data.annotations.mending import Edits, Row, box_area
from gridclip.data.annotations.repair import Finding, Survey, edited, merged, survey, write_edited
from gridclip.data.annotations.schema import NEGATIVE, NOT_EXHAUSTIVE, image_path, is_federated
from gridclip.data.images.decode import read_image
from gridclip.io.errors import InputError
from gridclip.io.files import require_writable
from gridclip.io.json_table import Fault, JsonTable, read_content
from gridclip.io.tables import WholeTable, make_console, say


def check_annotations(file: Path, *, images: Path | None = None, fix: Path | None = None) -> None:
    """List every problem of an annotation file, with counts, examples and what to do.

    The exit status is 0 if there is none (or none is left in the repaired copy), else 1.

    Args:
        file: Json file in LVIS or COCO form. It is never changed.
        images: Folder of the images. With it, every image is decoded: absent, broken and
            truncated ones are problems, and those of another size than the file says.
        fix: Where to write a repaired copy: a new file. Values without doubt are mended: ids of
            boxes, category ids from 0, areas, numbers in quotes, unknown ids in lists. Other images
            and boxes at fault are left out.
    """
    if fix is not None:
        require_writable(fix, field="fix", new=True)
    content = read_content(file)
    lists = parse_lists(file, content)
    found = find_problems(file, lists, images)
    # Checked before it is written: what is left out may break other rows, or leave nothing.
    mended = None if fix is None else edited(lists, found.edits)
    if fix is not None and mended is not None and mended.images:
        remaining = find_problems(fix, mended)
        write_edited(content, found.edits, fix)  # before a screen can fail
    console = make_console()
    _print(console, file, found, lists)
    left = bool(found.findings)
    if fix is not None and mended is not None:
        if not mended.images:
            problem, advice = "not written: every image is at fault", "mend the problems by hand"
            raise InputError(problem, fix=advice, file=fix)
        say(console, f"\nwrote {fix}")
        _print(console, fix, remaining, mended)
        left = bool(remaining.findings)
    if left:
        raise SystemExit(1)


def find_problems(file: Path, lists: CocoLists, images: Path | None = None) -> Survey:
    """Finds what breaks a rule of reading, and what makes training or evaluation fail later.

    Args:
        file: Where the lists were read.
        lists: They are left as they are.
        images: Folder of the images; None leaves them unread.

    Raises:
        InputError: if a list is none or empty, or the folder does not exist.
    """
    if images is not None and not images.is_dir():
        raise InputError("is no folder", fix="give that of the images", file=images)
    found = survey(file, lists, None if images is None else partial(_find_images, file, images))
    more = [_find_unverified(file, found), *_find_uncounted(file, found)]
    findings = [finding for finding in more if finding is not None]
    edits = merged([found.edits, *(finding.edits for finding in findings)])
    return found._replace(findings=[*found.findings, *findings], edits=edits)


_ABSENT, _BROKEN, _RESIZED = (
    "whose image does not exist",
    "whose image cannot be read whole",
    "whose image has another size than listed",
)
_IMAGE_FIXES = {
    _ABSENT: "put it into the folder of the images, or mend its path",
    _BROKEN: "fetch or write it again, or take it out",
    _RESIZED: "give the image that was annotated, or mend width, height and boxes",
}


def _find_images(file: Path, folder: Path, lists: CocoLists, edits: Edits) -> list[Fault]:
    """Decodes every image but those of rows that are left out anyway."""

    def judge(row: int) -> tuple[str, str]:
        image = lists.images[row]
        if edits["images"].get(row, {}) is None:
            return "", ""
        path = folder / image_path(image.get("file_name"), image.get("coco_url"))
        return _judge(path, (image["height"], image["width"]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = range(len(lists.images))
        judged = pool.map(judge, rows)
        console = Console(stderr=True)
        verdicts = [*track(judged, "decoding images", len(rows), console=console, transient=True)]
    records = JsonTable(file, "images", lists.images)
    faults = (
        records.find(
            [verdict == rule for verdict, _ in verdicts],
            "file_name",
            rule,
            fix=fix,
            note=lambda row: verdicts[row][1],
        )
        for rule, fix in _IMAGE_FIXES.items()
    )
    return [fault for fault in faults if fault is not None]


def _judge(file: Path, listed: tuple[int, int]) -> tuple[str, str]:
    """Returns which rule an image breaks, if any, and how."""
    try:
        if not file.is_file():
            return _ABSENT, f" at {str(file)!r}"
    except (OSError, ValueError):  # a name that no file can have
        return _ABSENT, ""
    try:
        height, width, _ = read_image(file).shape
    except InputError as error:
        return _BROKEN, f" ({error.__cause__ or 'more than 8 bits a channel'})"
    if (height, width) == listed:
        return "", ""
    return _RESIZED, f" is {width} x {height}, listed as {listed[1]} x {listed[0]}"


def _find_unverified(file: Path, found: Survey) -> Finding | None:
    """Finds the categories whose AP nothing defines; whether they matter, only a person knows."""
    own = [finding.edits.get("annotations", {}) for finding in found.findings]
    bad = {row for edits in own for row, change in edits.items() if change is None}
    seen = {
        annotation["category_id"]
        for row, annotation in enumerate(found.sound.annotations)
        if row not in bad and not annotation.get("iscrowd")
    }
    for image in found.sound.images:
        seen.update(image.get(NEGATIVE) or ())
    categories = found.sound.categories
    fault = JsonTable(file, "categories", categories).find(
        [category["id"] not in seen for category in categories],
        "name",
        "that no image verifies: never boxed, never listed as absent, so AP is undefined",
        fix="add images that show them or are known not to, or take them out of the list",
    )
    return None if fault is None else Finding(fault, {})


def _find_uncounted(file: Path, found: Survey) -> Iterator[Finding | None]:
    """Finds boxes that training takes and AP leaves out, or the other way round: of LVIS form."""
    images, boxes = found.sound.images, found.sound.annotations
    if not any(map(is_federated, images)):
        return
    gone = [found.edits["annotations"].get(row, {}) is None for row in range(len(boxes))]
    crowds = [bool(box.get("iscrowd")) for box in boxes]
    records = JsonTable(file, "annotations", boxes)
    fault = records.find(
        [box.get("area") == 0 and not (crowds[row] or gone[row]) for row, box in enumerate(boxes)],
        "area",
        "of area 0, which AP leaves out, as lvis does",
        fix="take the area away, or write that of the box",
    )
    if fault is not None:
        areas = {row: {"area": box_area(boxes[row])} for row in fault.rows}
        yield Finding(fault, {"annotations": dict(areas)})
    fault = records.find(
        [crowd and not gone[row] for row, crowd in enumerate(crowds)],
        "iscrowd",
        "that are crowds, which only COCO form has",
        fix=f"list the category in {NOT_EXHAUSTIVE} of the image instead",
    )
    if fault is not None:
        lists = _as_not_exhaustive([boxes[row] for row in fault.rows], images, found.edits)
        yield Finding(fault, {"annotations": dict.fromkeys(fault.rows), "images": lists})


def _as_not_exhaustive(crowds: list[Row], images: list[Row], edits: Edits) -> dict[int, Row | None]:
    """Adds the categories of crowds to the lists of their images, so that all have the list."""
    listed = {image["id"]: {*(image.get(NOT_EXHAUSTIVE) or ())} for image in images}
    for crowd in crowds:
        listed[crowd["image_id"]].add(crowd["category_id"])
    return {
        row: {NOT_EXHAUSTIVE: sorted(listed[image["id"]])}
        for row, image in enumerate(images)
        if edits["images"].get(row, {}) is not None
    }


def _print(console: Console, file: Path, found: Survey, lists: CocoLists) -> None:
    if not found.findings:
        counts = {name: len(rows) for name, rows in lists._asdict().items()}
        if not lists.category_groups:
            del counts[GROUPS]
        sizes = ", ".join(f"{count} {name}" for name, count in counts.items())
        say(console, f"{file}: no problem in {sizes}")
        return
    headings = ("problem", "count", "first examples", "fix", "--fix")
    title = f"{file}: {len(found.findings)} kinds of problems"
    table = WholeTable(headings, left=headings, title=title, lines=True)
    for fault, outcome in ((finding.fault, finding.outcome) for finding in found.findings):
        count = f"{len(fault.rows)} of {fault.total}"
        table.add_row(f"{fault.name} {fault.rule}", count, fault.examples, fault.fix, outcome)
    console.print(table)
    if found.follow:
        say(console, f"With the images at fault go {found.follow} annotations of theirs.")
