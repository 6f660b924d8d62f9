"""Lightning's four verbs, fit, validate, test and predict, with a run folder around them."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from gridclip.engine.callbacks.loggers import Throughput, default_loggers
from gridclip.engine.callbacks.validation_images import ValidationImages
from gridclip.engine.divergence import StopAtNonFiniteLoss
from gridclip.engine.going_on import (
    CHECKPOINT,
    LAST,
    checkpoint_of,
    is_restarted,
    refuse_other_processes,
    refuse_passing_folder,
    refuse_results,
)
from gridclip.engine.last_checkpoint import LastCheckpoint
from gridclip.engine.lightning_module import DetectionSystem, read_checkpoint, readable_checkpoint
from gridclip.engine.optimizers import require_end
from gridclip.engine.run_claim import (
    RUN_DIR_VARIABLE,
    choose_run_dir,
    claim,
    is_first_process,
    shared_run_dir,
)
from gridclip.engine.run_folder import RunFiles, SaveRecipe
from gridclip.engine.stop_requests import LeaveEvaluation, RequeueSignal, StopRequests
from gridclip.io import trust
from gridclip.io.arguments import PARSER_MODE, refuse_replaced
from gridclip.io.errors import InputError, require_at_least

# Imported so that a configuration can name their classes without the modules.
NAMED_BY_CONFIGURATIONS = (
    "gridclip.data.datamodules.detection",
    "gridclip.data.datamodules.hybrid",
    "gridclip.data.datamodules.noise",
    "gridclip.data.datasets.image_level",
    "gridclip.models.detclip.model",
    "gridclip.models.encoders.backbones",
    "gridclip.models.encoders.region_encoders",
    "gridclip.models.encoders.text",
    "gridclip.models.encoders.trained_text",
    "gridclip.models.gridclip.model",
    "gridclip.models.regionclip.model",
    "gridclip.models.regionclip.pretraining",
    "gridclip.models.regionclip.region_sources",
    "gridclip.models.vild.crop_and_classify",
    "gridclip.models.vild.model",
    "gridclip.ops.assigners",
)
for _module in NAMED_BY_CONFIGURATIONS:
    importlib.import_module(_module)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Which table an experiment is a row of.

    Args:
        table: Paper and table, or the question of the row where there is no table.
        reported: The paper's own figures, in percent as printed there; never ours.
        trained: Whether this row has ever been trained with this package.
    """

    table: str = ""
    reported: dict[str, float] = field(default_factory=dict)
    trained: bool = False


_PATIENCE = 60.0  # seconds in which a process that is killed, and what it started, is gone


class GridClipCLI(LightningCLI):
    """LightningCLI with a run folder, two loggers and a final evaluation.

    Args:
        ending: What is to be undone in the end; the claim of the run folder is added.
        settings: Of LightningCLI.
    """

    def __init__(self, ending: ExitStack, **settings: Any) -> None:  # noqa: ANN401
        self.ending = ending
        super().__init__(**settings)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the arguments that belong to no class."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of this run (default: $GRIDCLIP_RUN_DIR, else runs/<row>/<time>).",
        )
        parser.add_argument(
            "--checkpoint_every_steps",
            type=int | None,
            default=None,
            help="Steps between checkpoints within an epoch; each epoch's end has one anyway.",
        )
        parser.add_argument(
            "--requeue_signal",
            type=RequeueSignal | None,
            default="SIGUSR1",
            help="On this signal, save and have SLURM queue the job again; SIGTERM saves and ends.",
        )
        parser.add_argument(
            "--process_timeout",
            type=float,
            default=10.0,
            help="Minutes that processes wait for one another before the run is given up.",
        )
        parser.add_argument("--paper", type=Paper, default=Paper(), help="Row of which table.")
        parser.add_argument(trust.FLAG, action="store_true", help=trust.HELP)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, and refuses what a configuration must not decide.

        Raises:
            InputError: if a configuration trusts itself, or names code that is not trusted.
        """
        words = sys.argv[1:] if args is None else args
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand] if "subcommand" in self.config else self.config
        asked = trust.FLAG in words
        if config.trust and not asked:
            raise InputError(
                "a configuration cannot trust itself",
                field="trust",
                fix=f"remove it; if you trust whoever wrote it, say {trust.FLAG} yourself",
            )
        trust.refuse_foreign_classes(config, trust=asked)
        if not asked:
            trust.refuse_functions(config)

    def _parse_ckpt_path(self) -> None:
        """Looks at the checkpoint before anything is built, wherever it comes from.

        LightningCLI takes settings from it here. The configuration has them all, and a checkpoint
        must not add classes to it.

        Raises:
            InputError: if it cannot be read as numbers, text and tensors alone, or must not be.
        """
        verb = self.config.get("subcommand")
        config = self.config[verb] if verb else self.config
        if config.get("weights_only") is False:
            problem, fix = "is never false: a checkpoint that needs it runs code", "remove it"
            raise InputError(problem, fix=fix, field="weights_only")
        if "weights_only" in config:
            config.weights_only = True
        given = config.get("ckpt_path")
        if not given or (given == LAST and verb == "fit"):
            return
        if given in ("best", LAST, "hpc"):  # Lightning's names, where it may load nothing at all
            problem = f"is {given!r}, which names no checkpoint of this package"
            raise InputError(problem, field="ckpt_path", fix="give the file, RUN/" + CHECKPOINT)
        config.ckpt_path = str(readable_checkpoint(str(given)))

    def before_instantiate_classes(self) -> None:
        """Chooses and claims the run folder before anything is built."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        require_at_least(0, process_timeout=config.process_timeout)
        self.named = config.run_dir or os.environ.get(RUN_DIR_VARIABLE)
        if self.subcommand == "fit":
            refuse_passing_folder(self.named)
        paths = [Path(str(path)) for path in config.get("config") or []]
        command = self.subcommand if is_first_process() else None
        folder = choose_run_dir(config.run_dir, paths, make=command is not None)
        config.run_dir = os.environ[RUN_DIR_VARIABLE] = str(folder)
        if command is not None:
            patience = _PATIENCE if command == "fit" and is_restarted() else 0.0
            self.ending.callback(claim(folder, patience).release)
        if self.subcommand == "fit":  # in every process
            config.ckpt_path = checkpoint_of(folder, config.ckpt_path)
        if command is not None:
            refuse_results(folder, command, config.get("ckpt_path"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - as in LightningCLI
        """Adds what every run has: loggers, checkpoints, history, images."""
        folder = Path(self._get(self.config, "run_dir"))
        kwargs.setdefault("default_root_dir", str(folder))
        every_steps = self._get(self.config, "checkpoint_every_steps")
        logger = self._get(self.config, "trainer.logger")
        if logger is None:
            kwargs["logger"] = default_loggers(folder)
        requests = StopRequests(
            self._get(self.config, "requeue_signal"), goes_on=self.named is not None
        )
        self.trainer_defaults["callbacks"] = [
            StopAtNonFiniteLoss(),
            LeaveEvaluation(requests),
            LastCheckpoint(folder / "checkpoints", every_steps, requests),
            RunFiles(folder),
            ValidationImages(folder / "pictures"),
        ]
        if self._get(self.config, "trainer.enable_progress_bar") is not False:
            bar = TQDMProgressBar(refresh_rate=1 if sys.stdout.isatty() else 50)
            self.trainer_defaults["callbacks"].append(bar)
        if logger is not False:
            self.trainer_defaults["callbacks"] += [LearningRateMonitor("step"), Throughput()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, ImportError) as error:  # no such accelerator, or not its package
            self._refuse_other_processes(int(os.environ.get("WORLD_SIZE") or 0))
            raise _at_fault(error) from error
        requests.listen_for(trainer)
        self._refuse_other_processes(trainer.world_size)
        if hasattr(trainer.strategy, "_timeout"):  # which "ddp" and the like leave at half an hour
            minutes = self._get(self.config, "process_timeout")
            trainer.strategy._timeout = timedelta(minutes=minutes)
        if self.subcommand == "fit":
            require_end(trainer)
        return trainer

    def _refuse_other_processes(self, processes: int) -> None:
        """Refuses to go on with another number of processes than began, if that is known."""
        given = self._get(self.config, "ckpt_path") if self.subcommand == "fit" else None
        if given and processes:
            refuse_other_processes(read_checkpoint(Path(given)), processes, Path(given))

    def after_fit(self) -> None:
        """Evaluates the last weights, if they are not yet, and concludes the run.

        Where nothing was left to train, the figures of these weights stand.
        """
        dry = bool(getattr(self.trainer, "fast_dev_run", False))
        if dry or self.trainer.interrupted or not hasattr(self.datamodule, "val_annotations"):
            return
        files = next(c for c in self.trainer.callbacks if isinstance(c, RunFiles))  # type: ignore[attr-defined]
        if files.step is None and (files.folder / "metrics.json").exists():
            return
        if files.step != self.trainer.global_step:
            self.trainer.validate(self.model, datamodule=self.datamodule)  # which concludes it
        else:
            files.conclude(self.trainer, self.model)

    def after_predict(self) -> None:
        """Names the images that could not be read, and ends with status 1 if there is one."""
        unread: list[str] = self.model.unread
        if unread:
            many = f"{len(unread)} of {len(self.datamodule.val_set)} images could not be read"
            sys.stderr.write("\n".join([f"error: {many}:", *unread, ""]))
            sys.exit(1)


def build(argv: Sequence[str]) -> GridClipCLI:
    """Builds what a row describes, such as ["--config", row], but runs and writes nothing."""
    return run_lightning([*argv, "--trainer.logger=false"], run=False)


class _FitParser(GridClipCLI):
    """The parser of `gridclip fit` alone, which neither parses nor builds anything by itself."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names fit only: each verb more is a parser more to make."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - as in LightningCLI
        """Leaves the words to the function that `parser_of_fit` returns."""
        self.config = Namespace({"subcommand": "fit", "fit": {}})  # type: ignore[no-untyped-call]

    def _set_seed(self) -> None: ...

    def before_instantiate_classes(self) -> None:
        """Claims no run folder."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _run_subcommand(self, subcommand: str) -> None: ...


def parser_of_fit(*, trusted: bool) -> Callable[[Sequence[str]], list[str]]:
    """Returns a function that takes the words after `gridclip fit` as a trial would have them.

    It returns the dotted names of all settings, and raises an ArgumentError at a key that no class
    has and at a value of the wrong type. It builds nothing and writes nothing.

    Args:
        trusted: Whether it may import classes from elsewhere; that the words say so does not do.
    """
    parser = run_lightning(["fit"], kind=_FitParser).parser

    def parse(words: Sequence[str]) -> list[str]:
        with trust.importing_known_code(trust=trusted):
            names = parser.parse_args(["fit", *words]).keys()
        return [name.removeprefix("fit.") for name in names]

    return parse


def _try_whole_numbers_first() -> None:
    """Makes `--trainer.limit_val_batches=1` mean one batch, whatever was imported before.

    Python caches one Optional[Union[float, int]] for both orders, the first it meets, and parsers
    try the types in order. Where rich is imported before Lightning, a 1 would be 1.0, all batches.
    """
    annotations = inspect.unwrap(Trainer.__init__).__annotations__
    for name, kind in annotations.items():
        if kind == int | float | None:
            annotations[name] = int | float | None


def _at_fault(error: Exception) -> InputError:
    """Returns what Lightning says of a setting of its Trainer, such as a GPU that is not there."""
    fix = "give another value of that --trainer option"
    return InputError(str(error), fix=fix, field="trainer")


def run_lightning(
    arguments: list[str] | None, *, run: bool = True, kind: type[GridClipCLI] = GridClipCLI
) -> GridClipCLI:
    """Parses, builds and, if asked, runs; without arguments it takes those of the process.

    Raises:
        ArgumentError: for an unknown key or a value of the wrong type, with the key's name.
        InputError: for what is wrong otherwise, or names code that it may not import.
    """
    _try_whole_numbers_first()
    words = sys.argv[1:] if arguments is None else arguments
    refuse_replaced(words)
    files = [Path(word.rpartition("=")[2]) for word in words if word.endswith((".yaml", ".json"))]
    known = trust.importing_known_code(trust=trust.FLAG in words, files=files)
    with shared_run_dir(), known, ExitStack() as ending:
        try:
            return kind(
                ending,
                model_class=DetectionSystem,
                datamodule_class=LightningDataModule,
                subclass_mode_data=True,
                args=arguments,
                run=run,
                seed_everything_default=0,
                save_config_callback=SaveRecipe,
                save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
                auto_configure_optimizers=False,
                parser_kwargs={
                    "prog": "gridclip",
                    "exit_on_error": False,
                    "parser_mode": PARSER_MODE,
                },
            )
        except MisconfigurationException as error:
            raise _at_fault(error) from error
