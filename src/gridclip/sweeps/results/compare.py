"""`gridclip compare A B`: where two evaluations differ, category by category."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import require_writable, write_text
from gridclip.io.matches import Matches, find_matches, read_matches
from gridclip.io.tables import WholeTable, make_console, say
from gridclip.sweeps.results.over_images import Drawn, count_of, drawn, draws

LEAST_IMAGES = 5  # that show a category: draws of fewer repeat one another


class Difference(NamedTuple):
    """A figure of both evaluations.

    Args:
        a: Of the first, as a fraction; nan where nothing defines it.
        b: Of the second.
        drawn: What draws of images say of b − a; None where they cannot.
    """

    a: float
    b: float
    drawn: Drawn | None

    def to_json(self) -> dict[str, float | None]:
        """Returns everything in the form of json: null for nan."""
        ends = self.drawn._asdict() if self.drawn else dict.fromkeys(Drawn._fields)
        values = {"a": self.a, "b": self.b, "difference": self.b - self.a}
        return {name: None if np.isnan(value) else value for name, value in values.items()} | ends


class Compared(NamedTuple):
    """Two evaluations on the same images.

    Args:
        figures: By metric.
        categories: By name, in the order of the annotations.
    """

    figures: Mapping[str, Difference]
    categories: Mapping[str, Difference]


def compare_command(a: Path, b: Path, most: int = 10, output: Path | None = None) -> None:
    """Show where two evaluations of the same images differ, and whether by chance of the images.

    Args:
        a: A run folder, or figures that gridclip evaluate wrote (--output); their results by image
            are beside them.
        b: What is compared with it, evaluated on the same annotations by the same protocol.
        most: So many categories that gained most are listed, and as many that lost most.
        output: Where to write all categories, as json with AP as fractions.

    Raises:
        InputError: if one has no results by image, or they are of different evaluations.
    """
    require_at_least(0, most=most)
    if output is not None:
        require_writable(output)
    file = find_matches(b)
    before, after = read_matches(find_matches(a)), read_matches(file)
    before.require_same_truth(after, file)
    if not len(before.image_ids):
        raise InputError("is of no image", fix="compare evaluations of images", file=file)
    found = compare(before, after)
    if output is not None:
        write_text(output, json.dumps(_to_json(found, before), indent=2, allow_nan=False) + "\n")
    console = make_console()
    console.print(_figure_table(found, before))
    if most:
        console.print(_category_table(found, before, most))
    if output is not None:
        say(console, f"all categories: {output}")


def compare(a: Matches, b: Matches) -> Compared:
    """Returns both figures, and what draws of their common images say of the differences.

    Args:
        a: Results by image of the first, of at least one.
        b: Of the second, with the same images and boxes.
    """
    whole = [each.precision() for each in (a, b)]
    figures = [each.figures(precision) for each, precision in zip((a, b), whole, strict=True)]
    changes, of_categories = _draw(a, b)
    categories = {}
    per_category = [precision[0].mean(0).tolist() for precision in whole]
    for row, (name, images) in enumerate(zip(a.names, a.boxed_images(), strict=True)):
        told = drawn(of_categories[:, row]) if images >= LEAST_IMAGES else None
        categories[name] = Difference(per_category[0][row], per_category[1][row], told)
    return Compared(
        {
            name: Difference(float(figures[0][name][0]), float(figures[1][name][0]), drawn(change))
            for name, change in changes.items()
        },
        categories,
    )


def _draw(
    a: Matches, b: Matches
) -> tuple[dict[str, Float[np.ndarray, "B"]], Float[np.ndarray, "B K"]]:
    """Returns the differences of each metric, and of the AP of each category, in every draw."""
    figures, categories = [], []
    for weights in draws(len(a.image_ids)):
        one, other = a.precision(weights), b.precision(weights)
        before, after = a.figures(one), b.figures(other)
        figures.append({name: after[name] - before[name] for name in before})
        categories.append((other - one).mean(1))
    joined = {name: np.concatenate([piece[name] for piece in figures]) for name in figures[0]}
    return joined, np.concatenate(categories)


def _figure_table(found: Compared, matches: Matches) -> WholeTable:
    images = len(matches.image_ids)
    title = f"{matches.dataset}, {images} images, {matches.protocol} protocol: AP in percent"
    caption = (
        f"95 % interval and p of B − A by {count_of(images)} draws of the images with replacement;"
        " they say what other images may change, not what another training would."
    )
    headings = ("metric", "A", "B", "B − A", "95 % interval", "p")
    table = WholeTable(headings, left=["metric"], title=title, caption=caption)
    for name, each in found.figures.items():
        if not np.isnan(each.a):
            p = f"{each.drawn.p:.2g}" if each.drawn else "–"
            table.add_row(name, *_cells(each), p)
    return table


def _category_table(found: Compared, matches: Matches, most: int) -> WholeTable:
    boxed = dict(zip(matches.names, matches.boxed_images(), strict=True))
    kinds = dict(zip(matches.names, matches.frequencies, strict=True))
    defined = {name: each for name, each in found.categories.items() if not np.isnan(each.a)}
    ranked = sorted(defined, key=lambda name: defined[name].a - defined[name].b)
    shown = ranked if len(ranked) <= 2 * most else ranked[:most] + ranked[-most:]
    apart = sum(1 for each in defined.values() if each.drawn and not _holds_zero(each.drawn))
    told = sum(1 for each in defined.values() if each.drawn)
    caption = (
        f"{apart} of {told} intervals leave out 0, of which one in twenty does by chance; a name in"
        f" fewer than {LEAST_IMAGES} images has none."
    )
    title = "categories that gained and lost most, AP in percent"
    headings = ("category", "frequency", "images", "A", "B", "B − A", "95 % interval")
    table = WholeTable(headings, left=headings[:2], title=title, caption=caption)
    for name in shown:
        table.add_row(name, kinds[name] or "–", str(boxed[name]), *_cells(defined[name]))
    return table


def _holds_zero(interval: Drawn) -> bool:
    return interval.low <= 0 <= interval.high


def _cells(each: Difference) -> list[str]:
    ends = f"{100 * each.drawn.low:+.1f} to {100 * each.drawn.high:+.1f}" if each.drawn else "–"
    return [f"{100 * each.a:.1f}", f"{100 * each.b:.1f}", f"{100 * (each.b - each.a):+.1f}", ends]


def _to_json(found: Compared, matches: Matches) -> dict[str, object]:
    rows = zip(found.categories.items(), matches.frequencies, matches.boxed_images(), strict=True)
    return {
        "dataset": matches.dataset,
        "protocol": matches.protocol,
        "num_images": len(matches.image_ids),
        "draws": count_of(len(matches.image_ids)),
        "figures": {name: each.to_json() for name, each in found.figures.items()},
        "categories": {
            name: {"frequency": frequency or None, "images": images, **each.to_json()}
            for (name, each), frequency, images in rows
        },
    }
