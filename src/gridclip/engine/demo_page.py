"""`gridclip demo RUN`: a page of this machine on which an image is dropped and names are typed.

gradio serves it. Nothing of it leaves the machine: no fonts or scripts of others, no statistics, no
look for a newer version, no public link, and by default nobody but this machine can open it. What
visitors type are names and never files of this machine.
"""

import os
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import getproxies

import numpy as np
from jaxtyping import UInt8

from gridclip.engine.detect.command import names_of
from gridclip.engine.detect.findings import Findings, Found
from gridclip.engine.detect.pictures import with_boxes
from gridclip.io.errors import InputError, needing, require_fraction, require_range
from gridclip.io.tables import make_console, say

if TYPE_CHECKING:
    from gridclip.engine.detect.finder import Finder

SAME = 0.7  # IoU from which boxes of different names are taken for one
BEST = 3  # names shown of each
LIMIT = 300  # boxes of an image that are looked at
HEADINGS = ["name", "then", "then", "box: x1, y1, x2, y2"]


class Named(NamedTuple):
    """One box, and what it may be.

    Args:
        box: xyxy, pixels of the upright image.
        names: The best names with their scores, at most `BEST`.
    """

    box: tuple[float, float, float, float]
    names: tuple[tuple[str, float], ...]


def demo_command(  # noqa: PLR0913 - a command has as many options as it has
    run: str,
    *,
    names: str = "",
    threshold: float = 0.3,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Open a page on this machine: drop an image, type names, and see what is found.

    It needs no network. Images that visitors give are kept until it ends, by Ctrl-C.

    Args:
        run: Folder of a training, hf://user/name, or a file that gridclip export wrote.
        names: What is looked for at first: "a cup, a cat", or a file of names, one a line.
        threshold: Least score at first, in [0, 1].
        host: Address it listens at; 0.0.0.0 shows it to whoever reaches this machine, without a
            password.
        port: By default the first free one from 7860 on.
        device: Where to run it: auto, cpu, cuda, cuda:1, mps.
        trust: Import also classes that the run names from elsewhere, such as your own.

    Raises:
        InputError: for what is wrong, and if gradio is not installed or the port is taken.
    """
    require_fraction(threshold=threshold)
    if port is not None:
        require_range(port, "port", least=1, most=65535)
    first = ", ".join(names_of(names)) if names else ""
    with needing("demo"):
        import gradio  # noqa: F401 - before the detector, which may take long to load
    from gridclip.engine.predictor import load

    detector = load(run, device, trust=trust)
    with TemporaryDirectory(prefix="gridclip-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # gradio asks itself whether it can be reached, and must not ask a proxy.
        os.environ["no_proxy"] = f"{getproxies().get('no', '')},127.0.0.1,localhost,{host}"
        serve(make_page(detector, first, threshold), host, port)


def serve(page: Any, host: str, port: int | None) -> None:  # noqa: ANN401 - gradio has no types
    """Serves the page until Ctrl-C.

    Raises:
        InputError: if the port is taken, or the address is none of this machine.
    """
    import gradio

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=gradio.themes.Base(font="system-ui", font_mono="monospace"),
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError as error:
        fix = "give another --port, or none; --host 127.0.0.1 is this machine"
        raise InputError(f"{host}: {error}", fix=fix, field="port") from error
    say(make_console(), f"open {address} in a browser; Ctrl-C ends it")
    page.block_thread()


def make_page(detector: "Finder", names: str, threshold: float) -> Any:  # noqa: ANN401
    """Returns the page, as gradio's `Blocks`.

    Args:
        detector: What finds.
        names: What is looked for at first, separated by commas.
        threshold: Least score at first.
    """
    import gradio

    def search(image: str | None, typed: str, least: float) -> tuple[Any, ...]:
        try:
            found, told = searched(detector, image, typed)
            return found, *shown(image, found, least), told
        except InputError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    with gradio.Blocks(analytics_enabled=False, title="gridclip") as page:
        gradio.Markdown("# Find whatever you name")
        found = gradio.State()
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(
                    label="your image",
                    type="filepath",
                    image_mode=None,  # the file itself, which is read as `detect` reads it
                    sources=["upload", "clipboard"],
                    buttons=["fullscreen"],
                )
                typed = gradio.Textbox(names, label="names", placeholder="a cup, a cat")
                least = gradio.Slider(0, 1, threshold, step=0.01, label="least score")
                button = gradio.Button("Find", variant="primary")
                told = gradio.Textbox(label="search", interactive=False)
            with gradio.Column():
                picture = gradio.Image(
                    label="found",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                )
        table = gradio.Dataframe(
            headers=HEADINGS, interactive=False, label="boxes", buttons=["copy"]
        )
        gradio.on(
            [image.change, typed.submit, button.click],
            search,
            [image, typed, least],
            [found, picture, table, told],
            api_visibility="private",
            trigger_mode="always_last",
        )
        least.change(
            shown,
            [image, found, least],
            [picture, table],
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
        )
    return page


def searched(detector: "Finder", image: str | None, typed: str) -> tuple[Findings | None, str]:
    """Returns what is in an image at any score, and what to say of the search.

    Args:
        detector: What finds.
        image: A file; None where no image was given yet.
        typed: Names, separated by commas or lines.

    Raises:
        InputError: if the image cannot be read, or a name is there twice.
    """
    names = [name.strip() for name in re.split(r"[,\n]", typed) if name.strip()]
    if image is None or not names:
        return None, "drop an image and type names, separated by commas"
    began = time.perf_counter()
    found = detector.detect(image, names, threshold=0.0, limit=LIMIT)
    seconds = time.perf_counter() - began
    best = f"; the best score is {found[0].score:.2f}" if found else ""
    return found, f"{len(names)} names looked for in {seconds:.2f} s{best}"


def shown(
    image: str | None, found: Findings | None, least: float
) -> tuple[UInt8[np.ndarray, "_ _ 3"] | None, list[list[str]]]:
    """Returns the picture and the rows of the table of boxes that score this much.

    Args:
        image: A file; None where there is none.
        found: At any score.
        least: What the best name of a box must score.
    """
    from gridclip.data.images.decode import read_upright  # which needs torch

    if image is None or found is None:
        return None, []
    boxes = [each for each in grouped(found) if each.names[0][1] >= least]
    best = [Found(*each.names[0], each.box) for each in boxes]
    drawn = Findings(best, names=found.names, width=found.width, height=found.height)
    return with_boxes(read_upright(Path(image)).pixels, drawn), [_row(each) for each in boxes]


def grouped(found: Findings) -> list[Named]:
    """Returns each box once with its best names: boxes of an IoU of at least `SAME` are one.

    Args:
        found: Best first.
    """
    import torch
    from torchvision.ops import box_iou

    corners = torch.tensor([each.box for each in found], dtype=torch.float64).reshape(-1, 4)
    near = (box_iou(corners, corners) >= SAME).tolist()
    groups: dict[int, dict[str, float]] = {}  # by the row of their best
    for row, each in enumerate(found):
        best = next((best for best in groups if near[row][best]), row)
        groups.setdefault(best, {}).setdefault(each.name, each.score)
    return [Named(found[best].box, tuple(names.items())[:BEST]) for best, names in groups.items()]


def _row(each: Named) -> list[str]:
    cells = [f"{name} {score:.2f}" for name, score in each.names]
    return [*cells, *[""] * (BEST - len(cells)), ", ".join(f"{side:.0f}" for side in each.box)]
