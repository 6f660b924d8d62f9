"""What a table is made of: trials of a sweep, or any run folders that differ in some settings."""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml

from gridclip.io.errors import InputError
from gridclip.io.run_metrics import read_history, read_metrics, shown_metrics
from gridclip.io.yaml_text import parse_yaml
from gridclip.sweeps.spec.distributions import identity
from gridclip.sweeps.spec.parameters import swept
from gridclip.sweeps.spec.sweep_file import Metric, SweepSpec
from gridclip.sweeps.storage.trial import Trial

RECIPE = "config.yaml"
SEED_NAMES = ("seed", "seed_everything")
BESIDE = (
    *("paper", "run_dir", "ckpt_path", "checkpoint_every_steps"),
    *("requeue_signal", "process_timeout"),
)
"""Keys of a recipe that change no weight."""
ABSENT = "–"  # of a setting that another run's classes alone have
LACKING = identity(ABSENT)


class Runs(NamedTuple):
    """Trainings to be put into one table.

    Args:
        title: What they are.
        file: Where their settings are written, for messages.
        names: The settings in which they differ, by full name; each trial's point has them.
        trials: The trainings.
        metric: Which is the best, if anything says so.
        hidden: Settings that differ too, but tell no two runs apart that `names` do not.
    """

    title: str
    file: Path
    names: tuple[str, ...]
    trials: tuple[Trial, ...]
    metric: Metric | None = None
    hidden: tuple[str, ...] = ()

    @property
    def finished(self) -> tuple[Trial, ...]:
        """Those that came to an end with their figures."""
        return tuple(trial for trial in self.trials if trial.state == "finished")

    def full_name(self, name: str, field: str) -> str:
        """Returns a setting by its name, or by any end of it that no other has.

        Args:
            name: As people write it.
            field: The option that names it, for the message.

        Raises:
            InputError: if the runs do not differ in it, or several are meant.
        """
        found = [full for full in self.names if f".{full}".endswith(f".{name}")]
        if name in self.names or len(found) == 1:
            return name if name in self.names else found[0]
        problem = "may be any of several" if found else "is not swept"
        known = ", ".join(found or self.names) or "nothing differs"
        raise InputError(
            f"{name!r} {problem}", fix=f"name one of: {known}", field=field, file=self.file
        )

    def seed_name(self) -> str | None:
        """Returns the setting that is a seed by its name, if there is just one."""
        found = [name for name in self.names if name.split(".")[-1] in SEED_NAMES]
        return found[0] if len(found) == 1 else None

    def measured(self, asked: str | None) -> tuple[str, ...]:
        """Returns the metrics to show: those asked for, else the usual (`shown_metrics`).

        Args:
            asked: Names, separated by commas.

        Raises:
            InputError: if no finished run has one of them.
        """
        if asked is None:
            found = (name for trial in self.trials for name in trial.metrics_so_far())
            own = self.metric.name if self.metric else None
            return tuple(shown_metrics(own, found))
        names = tuple(name.strip() for name in asked.split(",") if name.strip())
        for name in names:
            if all(trial.value(name) is None for trial in self.finished):
                known = sorted({key for trial in self.finished for key in trial.metrics()})
                fix = f"name some of: {', '.join(known) or 'none is finished'}"
                raise InputError(
                    f"no finished run has the metric {name!r}",
                    fix=fix,
                    field="--metrics",
                    file=self.file,
                )
        return names


def runs_of_sweep(spec: SweepSpec, trials: Sequence[Trial]) -> Runs:
    """Returns the trials of a sweep."""
    return Runs(spec.name, spec.file, tuple(swept(spec.parameters)), tuple(trials), spec.metric)


def is_run_folder(folder: Path) -> bool:
    """Returns whether a folder is that of one training, not of a sweep."""
    return (folder / RECIPE).is_file()


def runs_of_folders(folders: Sequence[Path]) -> Runs:
    """Returns finished runs, however they were started; their recipes say in what they differ.

    Raises:
        InputError: if a folder holds no finished run.
    """
    recipes = [_read_recipe(folder) for folder in folders]
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe))
    columns = {key: [recipe.get(key, ABSENT) for recipe in recipes] for key in keys}
    differing = {
        key: values for key, values in columns.items() if len({identity(v) for v in values}) > 1
    }
    names, hidden = _telling(differing)
    trials = [
        _as_trial(number, folder, {name: differing[name][number - 1] for name in names})
        for number, folder in enumerate(folders, 1)
    ]
    place = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    return Runs(f"runs in {place.name}", place, names, tuple(trials), hidden=hidden)


def _as_trial(number: int, folder: Path, point: Mapping[str, object]) -> Trial:
    figures = read_metrics(folder)
    if not figures:
        raise InputError(
            "holds no finished run: metrics.json is not there or not whole",
            fix="leave it out, or finish it",
            file=folder,
        )
    ended = datetime.fromtimestamp((folder / "metrics.json").stat().st_mtime, UTC)
    return Trial(
        number=number,
        folder=folder,
        point=point,
        argv=(),
        run_id="",
        started=ended,
        ended=ended,
        state="finished",
        rows=read_history(folder),
        figures=figures,
    )


def _telling(differing: Mapping[str, Sequence[object]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the settings that tell runs apart, and those that add nothing to them.

    Two methods differ in a hundred settings; their class alone tells them apart. So classes come
    first, and a setting is taken if it parts runs that those before leave together. Of seeds that
    move together one is taken. What some recipes lack and the others agree in tells nothing: an
    earlier version did not write it.
    """
    all_seeds = [name for name in differing if name.split(".")[-1] in SEED_NAMES]
    seeds = _parting(differing, all_seeds)
    others = sorted(
        (name for name in differing if name not in all_seeds),
        key=lambda name: (not name.endswith("class_path"), len(name.split("."))),
    )
    told = [name for name in others if len({*map(identity, differing[name])} - {LACKING}) > 1]
    taken = _parting(differing, told)
    hidden = tuple(name for name in [*others, *all_seeds] if name not in [*taken, *seeds])
    return (*sorted(taken), *seeds), hidden


def _parting(columns: Mapping[str, Sequence[object]], names: Sequence[str]) -> list[str]:
    """Returns those of some settings that each part runs that the ones before leave together."""
    taken: list[str] = []
    groups = 1
    for name in names:
        parted = len(
            set(zip(*(map(identity, columns[key]) for key in [*taken, name]), strict=True))
        )
        if parted > groups:
            taken.append(name)
            groups = parted
    return taken


def _read_recipe(folder: Path) -> dict[str, object]:
    """Returns the settings of a run by their dotted names."""
    file = folder / RECIPE
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot be read: {error}", fix="name run folders", file=file) from error
    if not isinstance(content, dict):
        raise InputError("is no recipe", fix="name folders of `gridclip fit`", file=file)
    return dict(_settings(content, ()))


def _settings(
    content: Mapping[str, object], place: tuple[str, ...]
) -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if not place and key in BESIDE:
            continue
        if isinstance(value, dict) and value:
            yield from _settings(value, (*place, str(key)))
        else:
            yield ".".join((*place, str(key))), value
