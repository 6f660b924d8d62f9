"""The W&B dashboard of a project, built in code: what is looked at first comes first.

The keys are those that a run logs: see `lightning_module` and `loggers`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gridclip.engine.callbacks.loggers import logged_in
from gridclip.io.errors import InputError, needing
from gridclip.io.files import require_writable, write_text
from gridclip.io.tables import make_console, say
from gridclip.sweeps.spec.parameters import short_names, swept
from gridclip.sweeps.spec.sweep_file import read_sweep

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NAME = "rare, common, frequent"
STEP = "trainer/global_step"
GROUPS = {"val/APr": "APr: rare", "val/APc": "APc: common", "val/APf": "APf: frequent"}
OVERALL = ("val/AP", "val/AP50", "val/AP75", "val/APs", "val/APm", "val/APl")
FEW_ALARMS = ("val/APfa", "val/AP50fa")
NAMED_GROUPS = r"^val/AP(50)?_"  # AP_novel, AP50_novel, where the data set names groups
SPEED = "train/images_per_second"
IMAGES = "val/pictures"
# Every term of a loss is train/NAME, or train/image_level/NAME.
LOSSES = r"^train/(image_level/)?(?!images_per_second)[a-z_]+$"
LEARNING_RATES = r"^lr-"
SETTINGS = (
    "model.detector.init_args.weights.grid",
    "model.detector.init_args.weights.image",
    "model.optimizer.lr",
    "data.init_args.rare_split",
)


def make_workspace(
    entity: str, project: str, settings: Sequence[str] = SETTINGS, goal: str = "val/APr"
) -> "Workspace":
    """Builds the workspace, without using the network.

    Args:
        entity: W&B user or team.
        project: Its project.
        settings: Full names of the settings by which runs are compared.
        goal: The metric that is compared.

    Raises:
        InputError: if the package wandb-workspaces is missing.
    """
    reports, workspaces = _packages()
    sections = [
        ("average precision", _precision_panels(reports), True),
        ("settings", _setting_panels(reports, settings, goal), True),
        ("pictures", [reports.MediaBrowser(title="truth | found", media_keys=[IMAGES])], True),
        ("training", _training_panels(reports), True),
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            workspaces.Section(name=name, panels=panels, is_open=is_open)
            for name, panels, is_open in sections
        ],
        settings=workspaces.WorkspaceSettings(x_axis=STEP, max_runs=50),
    )


def show_workspace(
    entity: str = "me",
    project: str = "gridclip",
    sweep: Path | None = None,
    output: Path | None = None,
) -> None:
    """Write the W&B dashboard as JSON, without a network or an account.

    Args:
        entity: W&B user or team.
        project: Its project.
        sweep: Compare runs by what this sweep file varies.
        output: Where to write it; on the screen if left out.
    """
    if output is not None:
        require_writable(output)
    text = workspace_json(make_workspace(entity, project, *_of_sweep(sweep)))
    if output is None:
        Console().print_json(text)
        return
    write_text(output, text + "\n")


def push_workspace(entity: str, project: str = "gridclip", sweep: Path | None = None) -> None:
    """Make the dashboard on W&B, as a view of a project there.

    Args:
        entity: W&B user or team.
        project: Its project.
        sweep: Compare runs by what this sweep file varies.

    Raises:
        InputError: if nobody is logged in.
    """
    workspace = make_workspace(entity, project, *_of_sweep(sweep))
    if not logged_in():
        raise InputError(
            "no key of W&B is here",
            fix="run wandb login, or see the panels offline: gridclip dashboard show",
        )
    workspace.save()  # type: ignore[no-untyped-call]
    say(make_console(), f"dashboard: {workspace.url}")


def workspace_json(workspace: "Workspace") -> str:
    """Returns what would be sent to W&B."""
    view = json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return json.dumps(view, indent=2)


def _precision_panels(reports: Any) -> list[Any]:  # noqa: ANN401 - a module without types
    lines = [
        reports.LinePlot(title=title, x=STEP, y=[key], title_y="fraction")
        for key, title in GROUPS.items()
    ]
    together = reports.LinePlot(title="AP, by overlap and by size", x=STEP, y=list(OVERALL))
    quiet = reports.LinePlot(title="at few false alarms", x=STEP, y=list(FEW_ALARMS))
    named = reports.LinePlot(title="named groups", x=STEP, metric_regex=NAMED_GROUPS)
    scatter = reports.ScatterPlot(
        title="rare against frequent",
        x=reports.SummaryMetric("val/APf"),
        y=reports.SummaryMetric("val/APr"),
    )
    return [*lines, together, quiet, named, scatter]


def _setting_panels(reports: Any, settings: Sequence[str], goal: str) -> list[Any]:  # noqa: ANN401
    short = short_names(settings)
    columns = [
        reports.ParallelCoordinatesPlotColumn(reports.Config(name), display_name=short[name])
        for name in settings
    ]
    outcomes = dict.fromkeys(["val/APf", "val/APc", "val/APr", goal])
    columns += [
        reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric(name)) for name in outcomes
    ]
    return [
        reports.ParallelCoordinatesPlot(title="from settings to figures", columns=columns),
        reports.ParameterImportancePlot(with_respect_to=goal),
    ]


def _training_panels(reports: Any) -> list[Any]:  # noqa: ANN401
    return [
        reports.LinePlot(title="terms of the loss", x=STEP, metric_regex=LOSSES),
        reports.LinePlot(title="learning rate", x=STEP, metric_regex=LEARNING_RATES),
        reports.LinePlot(title="images per second", x=STEP, y=[SPEED]),
    ]


def _of_sweep(file: Path | None) -> tuple[Sequence[str], str]:
    """Returns what a sweep file varies, and its metric."""
    if file is None:
        return SETTINGS, "val/APr"
    spec = read_sweep(file)
    return swept(spec.parameters), spec.metric.name if spec.metric else "val/APr"


def _packages() -> tuple[Any, Any]:
    with needing("dashboards"):
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    return reports, workspaces
