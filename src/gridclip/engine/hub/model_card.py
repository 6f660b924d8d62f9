"""What a shared run says of itself: a page that is made of its own figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import gridclip

_FIGURES = ("AP", "AP50", "AP75", "APr", "APc", "APf", "APfa", "AP50fa")


def model_card(
    repo: str,
    detector: Mapping[str, Any],
    figures: Mapping[str, Any],
    trained_on: Sequence[str] | None,
    checkpoint: Mapping[str, Any],
    licence: str,
) -> str:
    """Returns a model card: a head in YAML, then Markdown.

    Args:
        repo: What it is called: user/name.
        detector: Its class and settings, as the recipe has them.
        figures: Of metrics.json, AP as fractions.
        trained_on: Names whose boxes it has seen; None if it is not known.
        checkpoint: Says how long it was trained.
        licence: As the hub names it, or unknown.
    """
    kind = str(detector.get("class_path")).rpartition(".")[2]
    backbone = str((detector.get("init_args") or {}).get("backbone", {}).get("class_path", ""))
    head = {
        "license": licence,
        "library_name": "gridclip",
        "pipeline_tag": "zero-shot-object-detection",
        "tags": ["gridclip", "object-detection", "open-vocabulary", kind],
    }
    data = f"{figures.get('dataset', 'data that metrics.json does not name')}"
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {repo.rpartition('/')[2]}",
        f"An open-vocabulary detector: {kind} on {backbone.rpartition('.')[2] or 'its backbone'}, "
        f"trained for {checkpoint.get('global_step', 'an unknown number of')} steps. It finds what "
        "you name, trained on or not; how well is measured below, on this data alone.",
        f"## Use\n\n```python\nimport gridclip  # {gridclip.__version__}; extra `hub`\n\n"
        f'detector = gridclip.load("hf://{repo}")\n'
        'detector.detect("photo.jpg", ["dog", "cup"])\n```',
        "## Figures\n\n"
        f"Data: {data}, {figures.get('num_images', '?')} images. Protocol: "
        f"{figures.get('protocol', '?')}. In percent; as measured at the end of the training.\n\n"
        + _table(figures),
        _names(trained_on),
        f"## Licence\n\n{_licence(licence)}",
    ]
    return "\n\n".join(sections) + "\n"


def _table(figures: Mapping[str, Any]) -> str:
    groups = [name for name in figures if name.startswith("AP_")]
    rows = [
        f"| {name} | {100 * figures[name]:.1f} |"
        for name in (*_FIGURES, *groups)
        if isinstance(figures.get(name), float) and math.isfinite(figures[name])
    ]
    return "\n".join(["| figure | value |", "|---|---|", *rows])


def _names(trained_on: Sequence[str] | None) -> str:
    title = "## Names trained on\n\n"
    if not trained_on:
        return title + "No list of names: phrases and captions, or nothing that is recorded."
    return title + (
        f"{len(trained_on)} names. They compete in the score, asked for or not.\n\n"
        f"<details><summary>All of them</summary>\n\n{', '.join(trained_on)}\n\n</details>"
    )


def _licence(licence: str) -> str:
    if licence == "unknown":
        return "Nobody has said which. Ask before you use the weights."
    return f"Of the weights: {licence}. The data and the networks it started from have their own."
