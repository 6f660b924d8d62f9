"""TensorBoard and W&B of a run, and what is logged there: its speed, settings and final figures."""

import json
import math
import netrc
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from gridclip.io.run_metrics import MAIN_METRICS, optional_metrics
from gridclip.io.yaml_text import parse_yaml
from gridclip.structures import Batch


def default_loggers(folder: Path) -> list[Logger]:
    """Returns both loggers, which write under the run folder; the first process has made it."""
    mode = os.environ.get("WANDB_MODE", "online" if logged_in() else "offline")
    return [
        TensorBoardLogger(save_dir=folder, name="tensorboard", version=""),
        WandbLogger(
            project="gridclip", name=folder.name, save_dir=folder, offline=mode == "offline"
        ),
    ]


def logged_in() -> bool:
    """Returns whether `wandb login` or WANDB_API_KEY has left a key, without using the network.

    wandb.login(prompt=False) would say so too, but it keeps later offline runs from starting.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(server or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class Throughput(Callback):
    """Logs train/images_per_second: over all processes, loading included, validation not."""

    def __init__(self) -> None:
        self._restart()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count."""
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts again, without the time that the validation took."""
        self._restart()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Counts the images of a step, and logs where Lightning logs."""
        self.images += len(batch.records) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self.started
            for logger in trainer.loggers:
                figures = {"train/images_per_second": self.images / seconds}
                logger.log_metrics(figures, step=trainer.global_step)
            self._restart()

    def _restart(self) -> None:
        self.images, self.started = 0, time.perf_counter()


# Settings of the recipe to log beside those that a sweep varies; a final dot means all below.
MAIN = (
    "seed_everything",
    "trainer.max_steps",
    "trainer.max_epochs",
    "model.optimizer.",
    "model.detector.class_path",
    "model.detector.init_args.weights.",
    "model.detector.init_args.temperature",
    "data.init_args.rare_split",
    "data.init_args.batch_size",
    "data.init_args.repeat_threshold",
)


def read_hyperparameters(run: Path) -> dict[str, object]:
    """Returns the main settings of a run, and those of its sweep, by their full dotted names.

    Args:
        run: Its folder, with the recipe (config.yaml); a trial of a sweep also has trial.json.
    """
    chosen = {
        name: value
        for name, value in _leaves(_read(run / "config.yaml"))
        if any(name == main or (main.endswith(".") and name.startswith(main)) for main in MAIN)
    }
    given = _read(run / "trial.json").get("parameters", {})
    return dict(sorted((chosen | given).items()))


def announce(run: Path, loggers: list[Logger]) -> None:
    """Logs the settings of a run to W&B when it begins.

    They are nested, as in the recipe: W&B reads the dots of a name in a panel as levels, and its
    agent adds the swept settings under dotted names, so the two do not collide.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(_nested(read_hyperparameters(run)))


def conclude(
    run: Path, loggers: list[Logger], figures: Mapping[str, float], *, step: int
) -> Path | None:
    """Logs the settings of a run and its final figures to TensorBoard.

    Its HPARAMS tab takes every number of a run for a result. So these are written as a run of their
    own, `tensorboard/hparams`, with the final AP, APr, APc and APf, those at few false alarms and
    of named groups, and nothing else; over the folder of a sweep the tab then shows one table,
    parallel coordinates and scatters.

    Args:
        run: Its folder; nothing is written if it has no recipe.
        loggers: Of the run; nothing is written if TensorBoard is none of them.
        figures: AP and its like as fractions; one that is nan is left out.
        step: At which they were measured.

    Returns:
        The folder of what was written, if anything was.
    """
    logger = next((each for each in loggers if isinstance(each, TensorBoardLogger)), None)
    settings = read_hyperparameters(run)
    if logger is None or not settings:
        return None
    # TensorBoard takes seconds to import.
    from torch.utils.tensorboard.summary import hparams, scalar
    from torch.utils.tensorboard.writer import FileWriter

    folder = Path(logger.log_dir) / "hparams"
    for old in folder.glob("events.out.tfevents.*"):  # of an evaluation before this one
        old.unlink()
    writer = FileWriter(str(folder))
    # The summary of all settings and figures is left out: TensorBoard would use that of the first
    # run for all; without, it looks at all runs.
    _, start, end = hparams({name: _plain(value) for name, value in settings.items()}, {})
    writer.add_summary(start)
    for name in (*MAIN_METRICS, *optional_metrics(figures)):
        if not math.isnan(figures[name]):
            writer.add_summary(scalar(name, figures[name]), step)
    writer.add_summary(end)
    writer.close()
    return folder


def _plain(value: object) -> int | float | str:
    """Returns a number or text: the HPARAMS tab takes nothing else, and draws no axis of a bool."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float | str):
        return value
    return json.dumps(value, default=str)


def _nested(settings: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return tree


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _read(file: Path) -> dict[str, Any]:
    """Returns the content of a YAML or JSON file; nothing if it is absent."""
    if not file.is_file():
        return {}
    content = parse_yaml(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
