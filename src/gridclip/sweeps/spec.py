"""A W&B sweep file, typed: what `wandb sweep` would take is read, anything else is refused.

The keys and their rules are those of W&B's own schema (the package `sweeps` 0.3.0,
`config/schema.json`); `sweeps/*.yaml` are the only description of a sweep, here and online.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gridclip.sweeps.parameters import Parameter, read_parameters
from gridclip.sweeps.section import Number, Section, read_yaml

METHODS = ("grid", "random", "bayes", "custom")
KEYS = (
    "method",
    "metric",
    "parameters",
    "program",
    "command",
    "run_cap",
    "early_terminate",
    "name",
    "description",
    "project",
    "entity",
)
IGNORED = ("apiVersion", "kind", "controller")  # they only matter to W&B's server
ONLINE = ("metrics", "scheduler", "job", "image_uri")  # they name services of W&B
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
MACROS = (
    "env",
    "interpreter",
    "program",
    "args",
    "args_no_hyphens",
    "args_no_equals",
    "args_no_boolean_flags",
    "args_json",
    "args_json_file",
    "args_append_hydra",
    "args_override_hydra",
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a sweep improves.

    Args:
        name: As the run logs it, for example val/APr.
        goal: Which way is better; minimize where the file doesn't say, as with W&B.
        target: No further trial starts once one has reached this value.
    """

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: Number | None = None

    def better(self, value: Number, than: Number) -> bool:
        """Whether the first value is truly better than the second."""
        return value > than if self.goal == "maximize" else value < than

    def reached(self, value: Number) -> bool:
        """Whether the value is as good as the target."""
        return self.target is not None and not self.better(self.target, than=value)


@dataclass(frozen=True, kw_only=True)
class Hyperband:
    """When W&B stops a trial that falls behind: `early_terminate`.

    Args:
        min_iter: The first band; the next ones stand eta times further.
        max_iter: Or else the last band, and `brackets` bands before it.
        brackets: How many bands there are before max_iter; the file calls it s.
        eta: How much further the next band is, and the share 1/eta that passes.
        strict: Judge a trial by its value at the band, not by its best so far. W&B's schema calls
            true the default, but its engine takes an absent key for false.
    """

    min_iter: int | None = None
    max_iter: int | None = None
    brackets: int | None = None
    eta: Number = 3
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """What a sweep file says.

    Args:
        file: Where it was read.
        name: The name in it, else the file's.
        method: How points are found.
        parameters: What is swept, in W&B's order.
        command: The words of a trial's command, macros not yet expanded.
        program: What `${program}` stands for.
        metric: What is improved, if anything.
        run_cap: No more trials than this.
        early_terminate: When a trial is stopped that falls behind.
        description: For people.
        project: Of W&B.
        entity: Of W&B.
        online: Fields that only W&B's own services carry out, with their lines.
        ignored: Fields that do nothing on this machine, with their lines.
    """

    file: Path
    name: str
    method: str
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    program: str | None = None
    metric: Metric | None = None
    run_cap: int | None = None
    early_terminate: Hyperband | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None
    online: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def read_sweep(file: Path) -> SweepSpec:
    """Read a W&B sweep file.

    Raises:
        InputError: if W&B would refuse the file, or drop a part of it in silence; it names the key
            and its line.
    """
    top = read_yaml(file)
    top.accept([*KEYS, *IGNORED, *ONLINE])
    top.require("method", "parameters")
    method = top.choice("method", METHODS)
    program = top.text("program")
    return SweepSpec(
        file=file,
        name=top.text("name") or file.stem,
        method=method,
        parameters=read_parameters(top.section("parameters"), grid=method == "grid"),
        command=_read_command(top, program),
        program=program,
        metric=_read_metric(top.section("metric")) if "metric" in top else None,
        run_cap=top.whole("run_cap", least=1) if "run_cap" in top else None,
        early_terminate=(
            _read_hyperband(top.section("early_terminate")) if "early_terminate" in top else None
        ),
        description=top.text("description"),
        project=top.text("project"),
        entity=top.text("entity"),
        online=_online(top, method),
        ignored=_ignored(top),
    )


def _read_command(top: Section, program: str | None) -> tuple[str, ...]:
    words = [str(word) for word in top.items("command")] if "command" in top else DEFAULT_COMMAND
    for word in words:
        macro = re.fullmatch(r"\$\{(?!envvar:)(.*)\}", word)
        if macro and macro[1] not in MACROS:
            # W&B's agent leaves such a word out and says nothing.
            known = ", ".join(f"${{{name}}}" for name in (*MACROS, "envvar:NAME"))
            raise top.fault("command", f"{word!r} is no macro of W&B", f"use one of {known}")
    if "${program}" in words and not program:
        raise top.fault("program", "is missing, and the command runs it", "name the program")
    return tuple(words)


def _read_metric(section: Section) -> Metric:
    section.accept(["name", "goal", "target", "impute", "impute_while_running"])
    section.require("name")
    name = section.text("name")
    assert name is not None
    goal = section.choice("goal", ("minimize", "maximize"), default="minimize")
    target = section.number("target") if "target" in section else None
    return Metric(name=name, goal="maximize" if goal == "maximize" else "minimize", target=target)


def _read_hyperband(section: Section) -> Hyperband:
    section.accept(["type", "min_iter", "max_iter", "s", "eta", "strict"])
    section.require("type")
    section.choice("type", ("hyperband",))
    if "min_iter" not in section:
        section.require("max_iter", "s")
    eta = section.number("eta", default=3)
    if not math.isfinite(eta) or eta <= 1:
        raise section.fault("eta", f"{eta} is not above 1", "give 2 or 3")
    return Hyperband(
        min_iter=section.whole("min_iter", least=1) if "min_iter" in section else None,
        max_iter=section.whole("max_iter", least=1) if "max_iter" in section else None,
        brackets=section.whole("s", least=1) if "s" in section else None,
        eta=eta,
        strict=section.flag("strict", default=False),
    )


def _online(top: Section, method: str) -> tuple[str, ...]:
    fields = [top.field(key) for key in top if key in (*ONLINE, "early_terminate")]
    return tuple(
        [f"method: {method} (line {top.lines['method',]})"] * (method in ("bayes", "custom"))
        + fields
    )


def _ignored(top: Section) -> tuple[str, ...]:
    fields = [top.field(key) for key in top if key in IGNORED]
    if "metric" in top:
        metric = top.section("metric")
        fields += [metric.field(key) for key in metric if key.startswith("impute")]
    return tuple(fields)
