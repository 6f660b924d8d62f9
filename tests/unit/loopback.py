"""A server on this machine that sends files as real ones do, and breaks off when it is told to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Loopback:
    """What it has and how it behaves.

    Attributes:
        files: Bytes by path, such as "/a.zip".
        cuts: Bytes after which answers break off, the next first.
        ranges: Whether it knows ranges.
        heeds: Whether it looks at If-Range.
        skew: Bytes by which its ranges begin too late.
        tag: Mark of the version of all files; empty for none.
        failures: Statuses to answer with first.
        asked: The range that each request asked for, empty for none.
        sent: Bytes that went out.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges, self.heeds, self.skew, self.tag = True, True, 0, '"one"'
        self.failures: list[int] = []
        self.asked: list[str] = []
        self.sent = 0
        self.address = ""


@contextmanager
def loopback() -> Iterator[Loopback]:
    """Serves until the end of the block."""
    world = Loopback()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, world)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    world.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, world: Loopback) -> None:
    asked = handler.headers.get("Range", "")
    world.asked.append(asked)
    content = world.files.get(handler.path)
    if world.failures or content is None:
        handler.send_error(world.failures.pop(0) if world.failures else 404)
        return
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and world.ranges else 0
    if world.heeds and handler.headers.get("If-Range", world.tag) != world.tag:
        start = 0
    start += world.skew if start else 0
    if start and start >= len(content):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if world.tag:
        handler.send_header("ETag", world.tag)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    rest = content[start:]
    if world.cuts:
        rest = rest[: world.cuts.pop(0)]
    handler.wfile.write(rest)
    world.sent += len(rest)
