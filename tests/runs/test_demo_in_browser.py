"""The demo page in a real browser, served by the command: nothing of it leaves this machine."""

import os
import re
import signal
import subprocess
import sys
from urllib.parse import urlparse

import pytest

SERVE = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
log = open(sys.argv.pop(1), "w")

def note(event, told):
    if event == "socket.connect":
        print(told[1] if isinstance(told[1], str) else told[1][0], file=log, flush=True)
    elif event == "socket.getaddrinfo":
        print(told[0], file=log, flush=True)

sys.addaudithook(note)
from gridclip.cli import main
main(sys.argv[1:])
"""
LOCAL = {"127.0.0.1", "localhost", "::1", "None"}


@pytest.fixture
def served(trained, tmp_path):
    """The address of the page; the server may ask nobody, and ends by Ctrl-C."""
    asked = tmp_path / "asked.txt"
    command = [sys.executable, "-c", SERVE, str(asked), "demo", str(trained)]
    command += ["--names", "red plain circle, blue striped square", "--threshold", "0"]
    proxy = {f"{kind}_PROXY": "http://127.0.0.1:9" for kind in ("HTTP", "HTTPS")}  # nobody is there
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | proxy)
    for line in server.stdout:
        if address := re.search(r"open (http://127\.0\.0\.1:\d+/)", line):
            break
    assert address
    yield address[1]
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    assert {*asked.read_text().split("\n")} - {""} <= LOCAL


@pytest.mark.slow
def test_an_image_is_dropped_and_what_is_named_is_found_with_no_request_elsewhere(
    browser, served, mini_root
):
    image = min((mini_root / "images").rglob("*.jpg"))
    page = browser.new_page()
    page.set_default_timeout(120_000)  # the first search imports much
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served)
    page.get_by_text("x1, y1, x2, y2").last.wait_for()  # the last part: the page is whole
    page.locator("input[type=file]").first.set_input_files(str(image))
    # gradio measures its table by a hidden one.
    cells = page.get_by_text(re.compile(r"(circle|square) 0\.\d\d")).locator("visible=true")
    cells.first.wait_for()
    # The picture is drawn larger than the image, which has 128 pixels.
    page.wait_for_function("[...document.images].some((each) => each.naturalWidth == 512)")
    page.get_by_role("spinbutton").fill("1")
    page.get_by_role("spinbutton").press("Enter")
    cells.first.wait_for(state="detached")
    page.get_by_label("names").fill("a cup, a cup")
    page.get_by_role("button", name="Find").click()
    page.get_by_text("twice").wait_for()
    page.close()
    assert complaints == []
    elsewhere = [url for url in requests if urlparse(url).scheme in ("http", "https", "ws")]
    assert {urlparse(url).hostname for url in elsewhere} == {"127.0.0.1"}
