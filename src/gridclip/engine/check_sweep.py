"""`gridclip sweep check`: what a sweep file would start, and what would fail, starting nothing.

What W&B would refuse is refused in reading the file. For the rest, a trial's own words are handed
to the parser of `gridclip fit`, which knows every setting of every class and builds nothing.
"""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from jsonargparse import ArgumentError

from gridclip.io.errors import InputError
from gridclip.io.tables import make_console, say
from gridclip.sweeps.search.search import Search, make_search, planned
from gridclip.sweeps.spec.distributions import Choice, identity
from gridclip.sweeps.spec.parameters import Parameter, Point, arguments
from gridclip.sweeps.spec.sweep_file import (
    ENVIRONMENT_MACRO,
    SweepSpec,
    conceal,
    expand_command,
    read_sweep,
)

SHOWN = 3  # commands
TRIED = 20  # values of one parameter


def check_sweep(file: Path, seed: int = 0, cap: int | None = None, trust: bool = False) -> None:
    """Say what a sweep file would start, and what would go wrong, without starting anything.

    The exit status is 0 if nothing is wrong, 1 if a trial would fail, 2 if W&B would refuse the
    file or drop a part of it in silence.

    Args:
        file: The sweep file.
        seed: Of the search, as for `gridclip sweep run`.
        cap: No more trials than this, as there.
        trust: Import also classes from elsewhere that its commands name, such as your own.
    """
    spec, console = read_sweep(file), make_console()
    say(console, f"{spec.name}: W&B would take it")
    for field in spec.ignored:
        say(console, f"ignored on this machine: {field}")
    for warning in (*spec.warnings, *_unset(spec)):
        say(console, f"mind: {warning}")
    search = make_search(spec, seed=seed)  # refuses what only W&B carries out
    say(console, f"trials: {_count(spec, search, cap)}")
    points = _first_points(search, cap)
    for number, point in enumerate(points, 1):
        say(console, f"trial {number}: {shlex.join(_words(spec, point, reveal=False))}")
    faults = [
        *_missing(spec, points[0]),
        *_refused(spec, points[0], lambda line: say(console, line), trust),
    ]
    for fault in faults:
        say(console, f"wrong: {conceal(fault, spec.command)}")
    if faults:
        raise SystemExit(1)


def _count(spec: SweepSpec, search: Search, cap: int | None) -> str:
    """Returns how many trials there will be, and what says so."""
    try:
        count = planned(spec, search, cap)
    except InputError:
        return f"without end, for {spec.method} has none: give --cap N, or run_cap: N in the file"
    if search.size is not None:
        return f"{count} of the {search.size} combinations of a grid"
    return f"{count} by {spec.method} search"


def _first_points(search: Search, cap: int | None) -> list[Point]:
    points = (search.propose(number, ()) for number in range(1, min(SHOWN, cap or SHOWN) + 1))
    return [point for point in points if point is not None]


def _words(spec: SweepSpec, point: Point, *, reveal: bool = True) -> tuple[str, ...]:
    given = arguments(spec.parameters, point)
    json_file = Path("TRIAL", "parameters.json")  # of its folder, which there is not yet
    return expand_command(
        spec.command, given, program=spec.program, json_file=json_file, reveal=reveal
    )


def _unset(spec: SweepSpec) -> Iterator[str]:
    """Yields a word of caution for each variable that the command takes and nobody has set."""
    for name in dict.fromkeys(ENVIRONMENT_MACRO.findall(" ".join(spec.command))):
        if name not in os.environ:
            yield f"${{envvar:{name}}} is not set, so the command gets the text {name}"


def _missing(spec: SweepSpec, point: Point) -> Iterator[str]:
    """Yields what the command begins with and this machine, or this folder, does not have."""
    first = _words(spec, point)[0]
    if shutil.which(first) is None:
        yield f"command: there is no program {first}"
    if "${program}" in spec.command and not Path(spec.program or "").is_file():
        yield f"program: there is no file {spec.program} in {Path.cwd()}"


def _refused(
    spec: SweepSpec, point: Point, tell: Callable[[str], None], trust: bool
) -> Iterator[str]:
    """Yields the parameters, and the values, that `gridclip fit` does not take."""
    if _fit_words(_words(spec, point)) is None:
        tell("parameters: not checked, for the command is no `gridclip fit`")
        return
    from gridclip.engine.lightning_cli import parser_of_fit  # seconds

    check = _Check(spec, parser_of_fit(trusted=trust))
    wrong = check.culprits(point)
    yield from wrong.values()
    known = {name: value for name, value in point.items() if name not in wrong}
    if not check.fault(known):
        for each in spec.parameters:
            for value in _others(each, known):
                if fault := check.fault({**known, each.name: value}):
                    yield f"{each.name}={value}: {fault}"
    tell(f"parameters: {check.count} commands were parsed as `gridclip fit` does it")


class _Check:
    """Hands commands of a sweep to the parser of `gridclip fit`.

    Args:
        spec: The sweep.
        parse: From `parser_of_fit`.
    """

    def __init__(self, spec: SweepSpec, parse: Callable[[Sequence[str]], list[str]]) -> None:
        self.spec, self.parse, self.count = spec, parse, 0
        self._names: list[str] = []

    def fault(self, point: Point) -> str:
        """Returns what the parser says of a command that sets these parameters alone, if any."""
        self.count += 1
        given = tuple(each for each in self.spec.parameters if each.name in point)
        words = _fit_words(_words(replace(self.spec, parameters=given), point))
        try:
            names = self.parse(words or ())
        except (ArgumentError, InputError) as error:
            return str(error)
        self._names = self._names or names
        return ""

    def culprits(self, point: Point) -> dict[str, str]:
        """Returns what is wrong with a point by the parameters at fault, or by "" if none is."""
        whole = self.fault(point)
        if not whole:
            return {}
        if self.fault({}):
            return {"": f"trial 1: {whole}"}
        alone = {name: self.fault({name: value}) for name, value in point.items()}
        found = {
            name: f"{name}={point[name]}: {fault}{self.meant(name)}"
            for name, fault in alone.items()
            if fault
        }
        return found or {"": f"trial 1: {whole}"}  # two settings that do not go together

    def meant(self, name: str) -> str:
        """Returns the setting that a mistyped name may have meant, as an advice."""
        close = get_close_matches(name, self._names, n=1)
        return f"\n  fix: did you mean {close[0]}?" if close else ""


def _others(parameter: Parameter, known: Point) -> Sequence[object]:
    """Returns some values of a parameter beside the one that is known to be taken."""
    drawn = parameter.distribution
    if parameter.name not in known or not isinstance(drawn, Choice):
        return ()  # numbers of one type: one is like the other
    own = identity(known[parameter.name])
    return [value for value in drawn.values if identity(value) != own][:TRIED]


def _fit_words(words: Sequence[str]) -> Sequence[str] | None:
    """Returns what follows `gridclip fit` in a command, as `python -m gridclip` too."""
    for place, (program, verb) in enumerate(pairwise(words)):
        if Path(program).name == "gridclip" and verb == "fit":
            return words[place + 2 :]
    return None
