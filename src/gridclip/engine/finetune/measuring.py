"""Own names and old ones, before and after a fine-tuning, in one table."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console

from gridclip.engine.finetune.blend import blended_checkpoint
from gridclip.engine.lightning_cli import run_lightning
from gridclip.engine.lightning_module import read_checkpoint
from gridclip.io.errors import InputError
from gridclip.io.files import write_text, written_whole
from gridclip.io.run_metrics import read_metrics
from gridclip.io.tables import WholeTable, say

Figures = dict[str, int | float]

_OWN = ("AP", "AP50", "APfa")
_LAST = Path("checkpoints") / "last.ckpt"


class Tuned(NamedTuple):
    """A fine-tuning that has ended.

    Args:
        run: The run that it started from.
        recipe: Of that run.
        output: Its own run folder.
        row: What it was.
        trust: Whether classes from elsewhere are imported.
    """

    run: Path
    recipe: dict[str, Any]
    output: Path
    row: dict[str, Any]
    trust: bool

    def evaluate(self, name: str, run: Path, data: dict[str, Any]) -> Figures:
        """Returns the figures of a run's weights, which stay in a run folder, `evaluations/NAME`.

        Args:
            name: Of the evaluation.
            run: The old one, or another, which has the new one's model.
            data: What it is measured on.

        Raises:
            InputError: if the data is not there.
        """
        folder = self.output / "evaluations" / name
        model = self.recipe["model"] if run == self.run else self.row["model"]
        content = {"model": model | {"init_from": None}, "data": data}
        accelerator = self.row["trainer"].get("accelerator", "auto")
        content["trainer"] = {"accelerator": accelerator, "logger": False}
        file = folder.with_name(f"{name}.yaml")
        write_text(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        words = ["validate", "--config", str(file), "--ckpt_path", str(run / _LAST)]
        words += ["--run_dir", str(folder), *(["--trust"] if self.trust else [])]
        run_lightning(words)
        return read_metrics(folder)

    def blend(self, share: float) -> Path:
        """Makes a run folder of weights between the old and the new ones, and returns it."""
        folder = self.output / f"blend-{share:g}"
        before, after = (read_checkpoint(each / _LAST) for each in (self.run, self.output))
        with written_whole(folder / _LAST) as part:
            torch.save(blended_checkpoint(before, after, share), part)
        recipe = (self.output / "config.yaml").read_text(encoding="utf-8")
        write_text(folder / "config.yaml", recipe)
        return folder


def measure(console: Console, tuned: Tuned, blends: list[float]) -> None:
    """Measures own and old names, prints the table, and writes it as finetune.json."""
    new, old = tuned.row["data"], tuned.recipe.get("data")
    own = {
        "before": tuned.evaluate("own-before", tuned.run, new),
        "after": read_metrics(tuned.output),
    }
    kept: dict[str, Figures] = {}
    if old:
        kept = _of_old_names(console, tuned, old)
    for share in blends:
        folder = tuned.blend(share)
        own[f"blend {share:g}"] = tuned.evaluate(f"own-{folder.name}", folder, new)
        if kept and old:
            name = f"old-{folder.name}"
            kept[f"blend {share:g}"] = tuned.evaluate(name, folder, old)
    write_text(tuned.output / "finetune.json", json.dumps({"own": own, "old": kept}, indent=1))
    console.print(table(own, kept))
    if kept and kept["before"].get("AP"):
        share = kept["after"]["AP"] / kept["before"]["AP"]
        say(console, f"{100 * share:.0f} % of the old names' AP is kept")
    say(console, f'use it: gridclip detect --run {tuned.output} --names "…" IMAGE.jpg')


def _of_old_names(console: Console, tuned: Tuned, data: dict[str, Any]) -> dict[str, Figures]:
    before = read_metrics(tuned.run)  # of these weights, or it would not be there
    try:
        if "AP" not in before:
            before = tuned.evaluate("old-before", tuned.run, data)
        return {"before": before, "after": tuned.evaluate("old-after", tuned.output, data)}
    except InputError as error:
        say(console, f"the old names were not measured: {error}")
        return {}


def table(own: dict[str, Figures], old: dict[str, Figures]) -> WholeTable:
    """Returns a row a figure, a column for before, after and each blend; in percent."""
    rows = [("your names", name, own) for name in _OWN]
    names = ("AP", "AP50", "APr", "APc", "APf")
    groups = sorted(name for name in old.get("before", {}) if name.startswith("AP_"))
    rows += [("old names", name, old) for name in (*names, *groups)]
    title = "before and after, in percent"
    shown = WholeTable(["names", "figure", *own], left=("names", "figure"), title=title)
    for kind, name, figures in rows:
        values = [each.get(name) for each in figures.values()]
        if any(value is not None for value in values):
            cells = ["–" if value is None else f"{100 * value:.1f}" for value in values]
            shown.add_row(kind, name, *cells)
    return shown
