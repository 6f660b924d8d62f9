"""The documents as a site: built as `make docs` does, and opened in a browser."""

import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("index", "usage", "data", "sweeps", "dashboards", "papers", "results", "api")
FETCHED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?:[^\"\s>]+)")
pytestmark = pytest.mark.slow


def build(project, output):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(output)]
    return subprocess.run(
        [*command, "-f", str(project / "mkdocs.yml")],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    ended = build(ROOT, folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_every_page_is_there_and_fetches_nothing_from_elsewhere(site):
    assert [page for page in PAGES if not (site / f"{page}.html").is_file()] == []
    fetched = {
        address for page in site.rglob("*.html") for address in FETCHED.findall(page.read_text())
    }
    assert fetched == set()


def test_the_api_has_signatures_and_arguments(site):
    page = (site / "api.html").read_text()
    assert 'id="gridclip.engine.predictor.load"' in page
    assert "threshold" in page
    assert "Least score, in [0, 1]" in page


def test_a_link_to_nowhere_fails_the_build(tmp_path):
    for name in ("mkdocs.yml", "docs", "src"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "usage.md"
    page.write_text(page.read_text() + "\n[gone](data.md#no-such-part)\n")
    ended = build(tmp_path, tmp_path / "site")
    assert ended.returncode != 0
    assert "no-such-part" in ended.stdout + ended.stderr


@pytest.fixture
def address(site):
    """Where the site is served, on loopback."""
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_page_and_its_search_ask_nobody_else(browser, site, address):
    page = browser.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "data.html").as_uri())  # from a disk
    assert "Data files" in page.inner_text("nav")
    page.goto(address + "index.html")
    page.fill("[data-md-component=search-query]", "pseudo-label")
    page.wait_for_selector(".md-search-result__item")
    page.close()
    others = [each for each in asked if not each.startswith(("file:", "data:", "blob:", address))]
    assert others == []
    assert errors == []
