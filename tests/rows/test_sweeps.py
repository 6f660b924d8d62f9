"""Every point of every sweep file parses and builds, and sets what it says it sets."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentError

from gridclip.sweeps.search.search import GridSearch, make_search
from gridclip.sweeps.spec.parameters import Point, arguments
from gridclip.sweeps.spec.sweep_file import SweepSpec, expand_command, read_sweep

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
DRAWS, FEW = 20, 4  # of a search without an end: all of its tests, and the default ones


def points(spec: SweepSpec, draws: int = DRAWS) -> list[Point]:
    search = make_search(spec)
    if isinstance(search, GridSearch):
        return list(search.points())
    return [search.propose(number, []) for number in range(1, draws + 1)]


def of_every_value(spec: SweepSpec) -> list[Point]:
    """So many of the points that each value of each parameter is in one of them."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for point in points(spec, FEW):
        values = {(name, repr(value)) for name, value in point.items()}
        if not values <= seen:
            kept.append(point)
            seen |= values
    return kept


def parse_or_build(spec: SweepSpec, point: Point, folder: Path):
    """Hand a trial's own words to the command line, which runs nothing."""
    from gridclip.engine.lightning_cli import build

    words = expand_command(
        spec.command,
        arguments(spec.parameters, point),
        program=spec.program,
        json_file=folder / "parameters.json",
    )
    assert words[2:5] == ("-m", "gridclip", "fit")
    row = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
    no_start = ["--model.init_from=null"] if "init_from" in row["model"] else []
    return build([*words[5:], *no_start])


@pytest.fixture
def parse_only(monkeypatch):
    """Leave the networks unbuilt: keys, types and values are checked all the same, in a tenth."""
    from gridclip.engine.lightning_cli import GridClipCLI

    monkeypatch.setattr(GridClipCLI, "instantiate_classes", lambda self: None)


# Lightning warns that pytest's own arguments stand in sys.argv.
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)  # a command names its experiment from there
    monkeypatch.setenv("GRIDCLIP_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.parametrize(
    "choose",
    [of_every_value, pytest.param(points, marks=pytest.mark.slow)],
    ids=["values", "points"],
)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_point_parses_and_sets_what_it_says(file, choose, tmp_path, parse_only):
    spec = read_sweep(file)
    for point in choose(spec):
        cli = parse_or_build(spec, point, tmp_path)
        assert {name: cli.config[name] for name in point} == point


@pytest.mark.parametrize(
    "which", [pytest.param(0, marks=pytest.mark.slow), -1], ids=["first", "last"]
)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_first_and_the_last_point_build(file, which, tmp_path):
    spec = read_sweep(file)
    cli = parse_or_build(spec, points(spec)[which], tmp_path)
    assert sum(weight.numel() for weight in cli.model.parameters()) > 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_at_its_head_what_it_asks_and_costs(file):
    head = [line for line in file.read_text().split("\nname:")[0].splitlines()]
    assert all(line.startswith("#") for line in head)
    assert any("?" in line for line in head)
    assert any(line.startswith("# Cost: ") for line in head)


def test_a_mistyped_parameter_is_named_before_training(tmp_path, parse_only):
    mini = (REPOSITORY / "sweeps" / "mini.yaml").read_text()
    file = tmp_path / "typo.yaml"
    file.write_text(mini.replace("weights.image:", "weights.imge:"))
    spec = read_sweep(file)
    with pytest.raises(ArgumentError, match="imge"):
        parse_or_build(spec, points(spec)[0], tmp_path)
