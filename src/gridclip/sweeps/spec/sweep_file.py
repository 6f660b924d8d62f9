"""A W&B sweep file, typed: what `wandb sweep` would take is read, anything else is refused.

The keys and their rules are those of W&B's own schema (the package `sweeps` 0.3.0,
`config/schema.json`); `sweeps/*.yaml` are the only description of a sweep, here and online.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gridclip.sweeps.spec.distributions import Numbers
from gridclip.sweeps.spec.parameters import Parameter, read_parameters
from gridclip.sweeps.spec.yaml_section import Number, Section, read_yaml

ENVIRONMENT_MACRO = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


def expand_command(
    command: Sequence[str],
    arguments: Mapping[str, object],
    *,
    program: str | None,
    json_file: Path,
    reveal: bool = True,
) -> tuple[str, ...]:
    """Expands the macros of a command.

    `${envvar:NAME}` expands inside a word too (to NAME where the variable is not set), every other
    macro only where it is the whole word; `${args…}` becomes one word or more for each argument.

    Args:
        command: The words of the sweep file.
        arguments: What the trial sets, by name.
        program: What `${program}` stands for.
        json_file: What `${args_json_file}` stands for; `write_arguments` writes it.
        reveal: Whether `${envvar:NAME}` becomes what the variable holds. What is shown or written
            down keeps the macro: tokens and passwords come by it.
    """
    macros = _macros(arguments) | {
        "env": ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [program or ""],
        "args_json_file": [str(json_file)],
    }
    words: list[str] = []
    for word in command:
        if ENVIRONMENT_MACRO.search(word):
            words.append(_environment(word) if reveal else word)
        elif word.startswith("${") and word.endswith("}"):
            words += macros.get(word[2:-1], [])
        else:
            words.append(word)
    return tuple(words)


def conceal(text: str, command: Sequence[str]) -> str:
    """Returns a text with what the variables of a command hold turned back into their macros.

    Args:
        text: Of another program or library, which may repeat the words that it was given.
        command: The words of the sweep file.
    """
    held = {name: os.environ.get(name, "") for name in ENVIRONMENT_MACRO.findall(" ".join(command))}
    for name in sorted(held, key=lambda name: -len(held[name])):  # one may be a part of another
        text = text.replace(held[name], f"${{envvar:{name}}}") if held[name] else text
    return text


def _environment(word: str) -> str:
    return ENVIRONMENT_MACRO.sub(lambda name: os.environ.get(name[1], name[1]), word)


def write_arguments(
    command: Sequence[str], arguments: Mapping[str, object], json_file: Path
) -> None:
    """Writes the JSON file of a trial if its command names it, as W&B's agent does."""
    if "${args_json_file}" in command:
        json_file.write_text(json.dumps(arguments, default=str), encoding="utf-8")


def _macros(arguments: Mapping[str, object]) -> dict[str, list[str]]:
    pairs = [f"{name}={value}" for name, value in arguments.items()]
    return {
        "args": [f"--{pair}" for pair in pairs],
        "args_no_hyphens": pairs,
        "args_no_equals": [
            word for name, value in arguments.items() for word in (f"--{name}", str(value))
        ],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in arguments.items()
            if value is not False
        ],
        "args_json": [json.dumps(arguments, default=str)],
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
    }


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
IMPUTED = ("worst", "best", "latest")
PROJECT_EXCLUDES, PROJECT_LENGTH = "/\\#?%:", 128  # of W&B's settings
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
MACROS = ("env", "interpreter", "program", "args_json_file", *_macros({}))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a sweep improves.

    Args:
        name: As the run logs it, for example val/APr.
        goal: Which way is better; minimize where the file doesn't say, as with W&B.
        target: No further trial starts once one has reached this value.
        impute: What a bayes search takes for the value of a trial that did not finish: the worst of
            all trials, or the best or latest that it logged itself.
        impute_while_running: The same for a running trial; "false" leaves its value open.
    """

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: Number | None = None
    impute: str = "worst"
    impute_while_running: str = "false"

    def better(self, value: Number, than: Number) -> bool:
        """Returns whether the first value is truly better than the second."""
        return value > than if self.goal == "maximize" else value < than

    def reached(self, value: Number) -> bool:
        """Returns whether the value is as good as the target."""
        return self.target is not None and not self.better(self.target, than=value)


@dataclass(frozen=True, kw_only=True)
class Hyperband:
    """When W&B stops a trial that falls behind: `early_terminate`.

    Args:
        min_iter: The first band; each next one stands eta times further.
        max_iter: Where the bands end, if given: they are the `brackets` ones before it.
        brackets: How many bands there are before max_iter; the file calls it s.
        eta: How much further the next band is, and the share 1/eta that passes.
        strict: Judge a trial by its value at the band, not by its best so far. Where the file does
            not say, W&B's engine fills in true.
    """

    min_iter: int | None = None
    max_iter: int | None = None
    brackets: int | None = None
    eta: Number = 3
    strict: bool = True


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
        warnings: What W&B takes, but hardly anyone means.
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
    warnings: tuple[str, ...] = ()


def read_sweep(file: Path) -> SweepSpec:
    """Reads a W&B sweep file.

    Raises:
        InputError: if W&B would refuse the file, or drop a part of it in silence; it names the key
            and its line.
    """
    top = read_yaml(file)
    top.accept([*KEYS, *IGNORED, *ONLINE])
    top.require("method", "parameters")
    method = top.choice("method", METHODS)
    program = top.text("program")
    parameters = read_parameters(top.section("parameters"), grid=method == "grid")
    _check(top, method, parameters)
    command = _read_command(top, program)
    return SweepSpec(
        file=file,
        name=top.text("name") or file.stem,
        method=method,
        parameters=parameters,
        command=command,
        program=program,
        metric=_read_metric(top.section("metric")) if "metric" in top else None,
        run_cap=top.whole("run_cap", least=1) if "run_cap" in top else None,
        early_terminate=(
            _read_hyperband(top.section("early_terminate")) if "early_terminate" in top else None
        ),
        description=top.text("description"),
        project=_read_project(top),
        entity=top.text("entity"),
        online=_online(top, method),
        ignored=_ignored(top, method),
        warnings=tuple(_warnings(parameters, command)),
    )


def _check(top: Section, method: str, parameters: tuple[Parameter, ...]) -> None:
    """Refuses keys that don't go together, and server keys of which W&B would make nothing."""
    readers = ["method: bayes"] * (method == "bayes")
    readers += ["early_terminate"] * ("early_terminate" in top)
    if readers and "metric" not in top:
        raise top.fault("metric", f"is missing, and {readers[0]} goes by it", "name the metric")
    if method == "bayes" and all(parameter.is_constant for parameter in parameters):
        raise top.fault("parameters", "leave a bayes search nothing to choose", "vary one of them")
    top.text("apiVersion")
    if "kind" in top:
        top.choice("kind", ("sweep",))
    if "controller" in top:
        top.section("controller").choice("type", ("local", "cloud"))


def _read_command(top: Section, program: str | None) -> tuple[str, ...]:
    is_empty = top.data.get("command", []) == []  # W&B's agent takes its own command then
    words = DEFAULT_COMMAND if is_empty else [str(word) for word in top.items("command")]
    for word in words:
        problem = _macro_fault(word)
        if problem:
            known = ", ".join(f"${{{name}}}" for name in (*MACROS, "envvar:NAME"))
            fix = f"give a macro a word of its own, one of {known}"
            raise top.fault("command", f"{word!r} {problem}", fix)
    if "${program}" in words and not program:
        raise top.fault("program", "is missing, and the command runs it", "name the program")
    return tuple(words)


def _macro_fault(word: str) -> str:
    """Returns what is wrong with the macros of a word; W&B's agent says nothing, nor expands them.

    So the trials would all run alike. `${HOME}` inside a word may be meant for a shell.
    """
    macro = re.fullmatch(r"\$\{(?!envvar:)([^{}]*)\}", word)
    if macro:
        return "" if macro[1] in MACROS else "is no macro of W&B"
    rest = ENVIRONMENT_MACRO.sub("", word)
    if "${envvar:" in rest:
        return "is no macro of W&B"
    inside = [name for name in re.findall(r"\$\{\s*([^{}\s]*)\s*\}", rest) if name in MACROS]
    return f"has ${{{inside[0]}}} inside a word, which W&B does not expand" if inside else ""


def _read_project(top: Section) -> str | None:
    project = top.text("project")
    bad = set(project or "") & set(PROJECT_EXCLUDES)
    if bad or len(project or "") > PROJECT_LENGTH:
        problem = f"{project!r} is no name that W&B takes, so every trial would end in its error"
        fix = f"use up to {PROJECT_LENGTH} characters, none of {' '.join(PROJECT_EXCLUDES)}"
        raise top.fault("project", problem, fix)
    return project


def _read_metric(section: Section) -> Metric:
    section.accept(["name", "goal", "target", "impute", "impute_while_running"])
    section.require("name")
    name = section.text("name")
    assert name is not None
    goal = section.choice("goal", ("minimize", "maximize"), default="minimize")
    return Metric(
        name=name,
        goal="maximize" if goal == "maximize" else "minimize",
        target=section.number("target") if "target" in section else None,
        impute=section.choice("impute", IMPUTED, default="worst"),
        impute_while_running=section.choice(
            "impute_while_running", (*IMPUTED, "false"), default="false"
        ),
    )


def _read_hyperband(section: Section) -> Hyperband:
    section.accept(["type", "min_iter", "max_iter", "s", "eta", "strict"])
    section.require("type")
    section.choice("type", ("hyperband",))
    if "min_iter" not in section or "max_iter" in section:
        section.require("max_iter", "s")  # W&B looks at max_iter alone if both are given
    eta = section.number("eta", default=3)
    if eta <= 1:
        raise section.fault("eta", f"{eta} is not above 1", "give 2 or 3")
    rule = Hyperband(
        min_iter=section.whole("min_iter", least=1) if "min_iter" in section else None,
        max_iter=section.whole("max_iter", least=1) if "max_iter" in section else None,
        brackets=section.whole("s", least=1) if "s" in section else None,
        eta=eta,
        strict=section.flag("strict", default=True),
    )
    if rule.max_iter is not None and rule.max_iter < eta:
        raise section.fault("max_iter", f"{rule.max_iter} is less than eta, {eta}", "raise it")
    return rule


def _online(top: Section, method: str) -> tuple[str, ...]:
    custom = [top.field("method").replace("method", "method: custom", 1)]
    fields = [top.field(key) for key in top if key in ONLINE]
    return tuple(custom * (method == "custom") + fields)


def _ignored(top: Section, method: str) -> tuple[str, ...]:
    fields = [top.field(key) for key in top if key in IGNORED]
    if "metric" in top and method != "bayes":
        metric = top.section("metric")
        fields += [metric.field(key) for key in metric if key.startswith("impute")]
    if "early_terminate" in top:
        rule = top.section("early_terminate")
        fields += [rule.field("min_iter")] * ("min_iter" in rule and "max_iter" in rule)
    return tuple(fields)


def _warnings(parameters: tuple[Parameter, ...], command: Sequence[str]) -> Iterator[str]:
    """Yields W&B's own warning, that two old distributions take exponents, and one of ours."""
    for parameter in parameters:
        drawn = parameter.distribution
        if isinstance(drawn, Numbers) and drawn.name in ("log_uniform", "inv_log_uniform"):
            yield (
                f"{parameter.name}: min and max of {drawn.name} are exponents of e, so it gives "
                f"{drawn.at(0.0):.4g} to {drawn.at(1.0):.4g}; {drawn.name}_values takes the values"
            )
    if not any(word.startswith("${args") for word in command):
        yield (
            "the command has no ${args}, so here all trials run with the same settings;"
            " only W&B's agent tells them to wandb.init()"
        )
