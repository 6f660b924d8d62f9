"""A page that is one file: styles, scripts and data inside, nothing from anywhere else."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files

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
    """The page that shows this data.

    The browser is told to run this very script and nothing else, and to ask no server for anything
    (Content-Security-Policy), so what a name or a log says is never run.

    Args:
        title: Of the window.
        data: What the scripts read; JSON can say it.
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
    return files("gridclip.dashboards").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inert(data: Mapping[str, object]) -> str:
    """JSON in which no tag can begin or end."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
