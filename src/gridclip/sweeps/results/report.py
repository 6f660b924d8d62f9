"""The report page of a sweep: one HTML file with data, style and scripts inside."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from gridclip.io.files import write_text
from gridclip.sweeps.results.page_data import page_data
from gridclip.sweeps.spec.sweep_file import SweepSpec
from gridclip.sweeps.storage.trial import Trial

# In the order in which the browser reads them; all share one scope.
SCRIPTS = (
    "shared.js",
    "table.js",
    "chart.js",
    "parallel.js",
    "scatter.js",
    "curves.js",
    "longtail.js",
    "examples.js",
    "page.js",
)


def make_page(title: str, data: Mapping[str, object]) -> str:
    """Returns the page that shows this data.

    Its Content-Security-Policy lets the browser run this very script and nothing else, and ask no
    server for anything, so what a name or a log says is never run.

    Args:
        title: Of the window.
        data: What the scripts read, as JSON.
    """
    script = "\n".join(["'use strict';", "(() => {", *map(_asset, SCRIPTS), "})();"])
    style = _asset("report.css")
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_digest(script)}';"
        f" style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "title": html.escape(title),
        "policy": policy,
        "style": style,
        "script": script,
        "data": _inert(data),
    }
    page = _asset("report.html")
    for name in ("title", "policy", "style", "script", "data"):  # the data last: it may say {{x}}
        page = page.replace("{{" + name + "}}", parts[name], 1)
    return page


def _asset(name: str) -> str:
    return files("gridclip.sweeps.results").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inert(data: Mapping[str, object]) -> str:
    """Returns JSON in which no tag can begin or end."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write_report(
    spec: SweepSpec, folder: Path, trials: Sequence[Trial], output: Path | None = None
) -> Path:
    """Writes the report page of a sweep, whether it is finished or not.

    Args:
        spec: The sweep file.
        folder: The folder of the sweep.
        trials: By number.
        output: The page; report.html in the folder if left out.

    Returns:
        The page.
    """
    file = output or folder / "report.html"
    write_text(file, make_page(f"{spec.name}: sweep report", page_data(spec, folder, trials)))
    return file
