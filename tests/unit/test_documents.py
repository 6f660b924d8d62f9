"""What the documents name exists: files, tests, functions, commands with their options, targets."""

import contextlib
import importlib
import io
import re
from functools import cache
from pathlib import Path

import jaxtyping
import pytest
import torch

from gridclip.cli import main
from gridclip.io.errors import InputError
from gridclip.models.encoders.backbones import ClipResNet
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText
from gridclip.ops.assigners import FCOSAssigner
from gridclip.structures import DetectionBatch, ImageBatch, Images, Record, Targets, Vocabulary

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md")]
    + [path for tree in ("docs", "benchmarks", "src") for path in (ROOT / tree).rglob("*.md")]
)
TREES = ("src", "tests", "docs", "experiments", "sweeps", "benchmarks", "notebooks")
FILES = [path for tree in TREES for path in (ROOT / tree).rglob("*") if path.is_file()]
FILES += [path for path in ROOT.iterdir() if path.is_file()]
TAILS = {
    "/".join(path.relative_to(ROOT).parts[start:])
    for path in FILES
    for start in range(len(path.relative_to(ROOT).parts))
}

BLOCK, SPAN = re.compile(r"^```.*?^```", re.M | re.S), re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
FILE = re.compile(r"(?<![\w/.<>*$-])[a-z][\w./-]*\.(?:py|yaml|md|ipynb|js)\b(?!\.)")
FOLDER = re.compile(rf"(?<![\w/.])(?:{'|'.join(TREES)})/[\w/-]*(?![\w./*…{{<])")
TEST = re.compile(r"(?<![\w/…])test_\w{12,}(?![\w…]|\.py)")
DOTTED = re.compile(r"`((?:ops|models|evaluation|engine|sweeps|structures|data)(?:\.\w+)+)")
SETTING = re.compile(r"data\.(init_args|class_path|noun|yaml)|.*\.py$")  # of a row; or a file
COMMAND = re.compile(r"(?<![\w/.-])gridclip ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)?)")
OPTION = re.compile(r"(?<=\s)--(\w+)(?![\w.])")
TARGET = re.compile(r"(?<=[`\n])make (?:[A-Z]+=\S+ )?([a-z-]+)")

ELSEWHERE = {"config.yaml", "evaluated.yaml", "experiments/mini/plain_grid.yaml", "plain_grid.yaml"}
ELSEWHERE |= {"data.yaml"}
"""Files of a run folder, those that a reader writes by a recipe, and those of YOLO folders."""

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def code_of(document: Path) -> str:
    """Code blocks, with continued lines as one, and words in backticks, one a line."""
    text = document.read_text()
    blocks = [block.replace("\\\n", " ") for block in BLOCK.findall(text)]
    return "\n".join([*blocks, *SPAN.findall(BLOCK.sub("", text))])


@cache
def help_of(command: str) -> str | None:
    """What `gridclip COMMAND --help` prints; None if there is no such command."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main([*command.split(), "--help"])
        except SystemExit as ended:
            return printed.getvalue() if ended.code == 0 else None
    return None  # the help of all commands, which unknown ones get


def named_commands(code: str) -> list[tuple[str, str]]:
    """Every command in the code, by its one or two words, and the rest of its line."""
    found = []
    for line in code.splitlines():
        for match in COMMAND.finditer(line):
            both = match.group(1)
            known = both if help_of(both) else both.split()[0]
            rest = re.split(r"(?:[;#|`]|  +(?=\S))", line[match.end() :])[0]
            found.append((known, rest))
    return found


@every_document
def test_every_link_leads_to_a_file_or_folder(document):
    links = LINK.findall(document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@every_document
def test_every_file_and_folder_that_is_named_exists(document):
    code = code_of(document)
    files = [name for name in FILE.findall(code) if name not in ELSEWHERE | TAILS]
    roots = (ROOT, ROOT / "src" / "gridclip")
    named = FOLDER.findall(code)
    folders = [name for name in named if not any((root / name).exists() for root in roots)]
    assert files + folders == []


@every_document
def test_every_test_that_is_named_exists(document):
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.M)
    }
    assert [name for name in TEST.findall(code_of(document)) if name not in defined] == []


@every_document
def test_every_function_that_is_named_by_its_module_exists(document):
    absent = []
    for name in DOTTED.findall(code_of(document)):
        if SETTING.match(name):
            continue
        parts, found = name.split("."), None
        for end in range(len(parts), 0, -1):
            try:
                found = importlib.import_module("gridclip." + ".".join(parts[:end]))
            except ModuleNotFoundError:
                continue
            break
        for part in parts[end:]:
            found = getattr(found, part, None)
        absent += [] if found is not None else [name]
    assert absent == []


@every_document
def test_every_command_exists_with_the_options_that_it_is_given(document):
    faults = []
    for command, rest in named_commands(code_of(document)):
        shown = help_of(command)
        if shown is None:
            faults.append(command)
            continue
        faults += [
            f"{command} --{name}" for name in OPTION.findall(rest) if f"--{name}" not in shown
        ]
    assert faults == []


@every_document
def test_every_make_target_exists(document):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert [name for name in TARGET.findall(code_of(document)) if name not in targets] == []


def code_that_has(words: str) -> str:
    """The block of the architecture's Python code in which these words stand."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.S)
    return next(block for block in blocks if words in block)


def test_the_detector_of_the_recipe_learns_all_its_weights_and_refuses_images_without_boxes():
    scope: dict = {"__name__": "recipe"}
    exec(compile(code_that_has("class PlainGrid"), "docs/architecture.md", "exec"), scope)
    mini = ClipModel(name="gridclip-mini", weights="mini")
    detector = scope["PlainGrid"](ClipResNet(mini), ClipText(mini), FCOSAssigner(), width=16)
    images = Images(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]))
    objects = [Targets(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([1]))]
    names, records = Vocabulary(["red plain star", "blue plain heart"]), [Record(1, "a", 64, 64)]

    losses = detector.losses(DetectionBatch(images, objects, names, records))
    assert losses.keys() == {"grid", "box", "centreness"}
    sum(losses.values()).backward()
    learned = [weight for weight in detector.parameters() if weight.requires_grad]
    assert learned
    assert all(weight.grad is not None for weight in learned)
    with pytest.raises(InputError, match="PlainGrid"):
        detector.losses(ImageBatch(images, torch.ones(1, 2), names, records))


def test_the_loss_of_the_recipe_is_the_mean_over_positive_cells():
    scope: dict = {"Float": jaxtyping.Float, "Bool": jaxtyping.Bool, "Tensor": torch.Tensor}
    exec(compile(code_that_has("def corner_distance"), "docs/architecture.md", "exec"), scope)
    boxes, truth = torch.zeros(3, 4), torch.tensor([[1.0, 2.0, 3.0, 6.0], [4.0] * 4, [9.0] * 4])
    distance = scope["corner_distance"](boxes, truth, torch.tensor([True, True, False]))
    assert distance.item() == (3 + 4) / 2
