"""The command line: Lightning's four verbs, and the small commands around them."""

import errno
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

from gridclip.io import trust
from gridclip.io.arguments import PARSER_MODE
from gridclip.io.errors import InputError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EPIPE)
_SHORT = {  # as make and people write
    "-j": "--jobs",
    "--per-gpu": "--per_gpu",
    "--names-as-input": "--names_as_input=true",
    "--importances": "--importances=true",
}
VERBS = ("fit", "validate", "test", "predict")


class Command(NamedTuple):
    """A small command.

    Args:
        words: What it is called by: "data mini".
        function: Its function, as module:name.
        usage: What follows the words, as --help shows it.
        purpose: What it does, in a few words; empty where the usage says it.
    """

    words: str
    function: str
    usage: str
    purpose: str

    def load(self) -> Callable[..., None]:
        """Returns its function."""
        module, _, name = self.function.partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        return function


# Each command once: --help lists this table, and only the module of the one that is called is
# imported, because torch takes seconds.
# fmt: off
GROUPS = {
    "train, evaluate and use a detector": (
        Command("detect", "gridclip.engine.detect.command:detect_command",
                '--run RUN --names "a cup, a cat" IMAGE...', "find things in images"),
        Command("classify", "gridclip.engine.classify_command:classify_command",
                '--run RUN --boxes JSON --names "…" IMAGE', "name the boxes that you give"),
        Command("demo", "gridclip.engine.demo_page:demo_command",
                "RUN", "a page: drop an image, type names"),
        Command("finetune", "gridclip.engine.finetune.command:finetune_command",
                "RUN --data DIR --output DIR", "teach a run your own names, and keep the old"),
        Command("init", "gridclip.engine.init_folder:init_folder",
                "DIR", "rows, sweeps and a README to start from"),
        Command("export", "gridclip.engine.export.command:export_command",
                "RUN --names-as-input --output FILE.onnx", "a file for other runtimes"),
        Command("push", "gridclip.engine.hub.transfer:push_command",
                "RUN USER/NAME --licence apache-2.0", "share a run on the Hugging Face hub"),
        Command("sweep run", "gridclip.sweeps.running.command:run_sweep",
                "SWEEP.yaml", "run a W&B sweep file here"),
        Command("sweep submit", "gridclip.sweeps.running.submit:submit_sweep",
                "SWEEP.yaml --array 8 --gpus 1", "run one by jobs of SLURM"),
        Command("sweep check", "gridclip.engine.check_sweep:check_sweep",
                "SWEEP.yaml", "what it would start, and what would fail"),
        Command("sweep list", "gridclip.sweeps.running.command:list_sweeps",
                "", "how far every sweep is"),
        Command("sweep status", "gridclip.sweeps.running.command:sweep_status",
                "ID", "how one stands, and who runs it"),
        Command("sweep stop", "gridclip.sweeps.running.command:stop_sweep",
                "ID", "on whatever machines it runs"),
        Command("sweep table", "gridclip.sweeps.running.command:sweep_table",
                "ID --over seed_everything --output PAGE.md",
                "or --paired BASELINE: is the difference chance?"),
        Command("sweep report", "gridclip.sweeps.running.command:sweep_report",
                "ID", 'write its page, or that of "latest"'),
        Command("dashboard show", "gridclip.engine.callbacks.wandb_workspace:show_workspace",
                "", "the panels of a W&B project"),
        Command("dashboard push", "gridclip.engine.callbacks.wandb_workspace:push_workspace",
                "ENTITY", "make them there"),
        Command("evaluate", "gridclip.evaluation.command:evaluate_command",
                "--annotations GT.json --detections DT.json", "LVIS AP of anyone's boxes"),
        Command("compare", "gridclip.sweeps.results.compare:compare_command",
                "RUN_A RUN_B", "which categories gained and lost"),
    ),
    "data with boxes": (
        Command("data mini", "gridclip.data.synthetic.mini_dataset:make_mini",
                "DIR", "draw the mini data set"),
        Command("data check", "gridclip.data.annotations.check:check_annotations",
                "FILE --images DIR", "list every problem of a file"),
        Command("data hold-out", "gridclip.data.annotations.hold_out:hold_out",
                "FILE OUTPUT", "COCO's 48 and 17 names, or yours"),
        Command("data convert", "gridclip.data.forms.convert:convert_command",
                "SOURCE OUT.json", "from YOLO, VOC, CVAT, Open Images, LabelMe"),
        Command("data export", "gridclip.data.forms.export:export_command",
                "FILE DIR --form yolo", "and back to any of them"),
        Command("data get", "gridclip.data.public_sets:get_command",
                "lvis|coco|minival DIR", "fetch public archives, resumable"),
        Command("data subset", "gridclip.data.annotations.subset:subset_command",
                "FILE DIR --train 5000", "a small set, images made smaller"),
        Command("data show", "gridclip.data.drawing:show_samples",
                "DIR", "draw augmented images"),
    ),
    "data without boxes, and teachers": (
        Command("data concepts", "gridclip.data.datasets.concept_pool:concepts_command",
                "SOURCE... --output NAMES.txt", "count what captions speak of"),
        Command("data entities", "gridclip.data.datasets.grounding:entities_command",
                "DIR --output GROUNDING.json", "Flickr30k Entities as one file"),
        Command("data pack", "gridclip.data.images.pack:pack_command",
                "SOURCE DIR", "write tar shards with an index"),
        Command("data pseudo-label", "gridclip.engine.precompute.pseudo_label:pseudo_label_command",
                "SOURCE --vocabulary NAMES --output FILE", ""),
        Command("data embed", "gridclip.engine.precompute.embed_images:embed_command",
                "FILE --output FILE", "store a teacher's embeddings"),
        Command("clip train", "gridclip.engine.clip_training.mini_clip:train_mini_clip",
                "", "train the mini CLIP again"),
        Command("clip probe", "gridclip.engine.precompute.probe:probe_command",
                "FILE", "how well a teacher names given boxes"),
        Command("clip convert-regionclip",
                "gridclip.models.regionclip.released_weights:convert_regionclip",
                "FILE --output CLIP", "RegionCLIP's published weights"),
        Command("propose", "gridclip.engine.precompute.regions:propose_command",
                "FILE --run RUN --output PROPOSALS", "store where something may be"),
        Command("clip embed-proposals",
                "gridclip.engine.precompute.regions:embed_proposals_command",
                "PROPOSALS --source FILE --output REGIONS", ""),
    ),
}
# fmt: on
COMMANDS = {command.words: command for group in GROUPS.values() for command in group}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; an error in what was given ends it with status 2 and one message.

    A full disk, or a screen that nobody reads any more, ends it with status 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # signs that the terminal lacks
    try:
        _run(argv)
        sys.stdout.flush()
    except (InputError, ArgumentError, ValueError) as error:
        fault = _input_error(error)
        if fault is None:
            raise
        sys.stderr.write(f"error: {fault}\n")
        sys.exit(2)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        if error.errno != errno.EPIPE:
            sys.stderr.write(f"error: {error.filename or 'what was printed'}: {error.strerror}\n")
        # Python would try again, and complain, at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(argv: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb, pair = " ".join(arguments[:1]), " ".join(arguments[:2])
    if verb in VERBS:
        from gridclip.engine.lightning_cli import run_lightning

        run_lightning(None if argv is None else arguments)
    elif pair in COMMANDS:
        _call(COMMANDS[pair], arguments[2:])
    elif verb in COMMANDS:
        _call(COMMANDS[verb], arguments[1:])
    elif not arguments or {"-h", "--help"} & set(arguments[:2]):
        sys.stdout.write(_help())
    else:
        raise InputError(f"there is no command {pair!r}", fix="see gridclip --help")


def _help() -> str:
    """Returns the list of all commands."""
    lines = ["usage: gridclip COMMAND ...", ""]
    for group, commands in GROUPS.items():
        lines.append(group)
        if commands[0] is COMMANDS["detect"]:
            lines.append(f"  gridclip {' | '.join(VERBS)} --config ROW.yaml")
        for command in commands:
            usage = f"  gridclip {command.words} {command.usage}"
            lines.append(f"{usage:64}{command.purpose}".rstrip())
        lines.append("")
    return "\n".join([*lines, "gridclip COMMAND --help says more.", ""])


def _input_error(error: BaseException | None) -> BaseException | None:
    """Returns what was wrong with the input, which jsonargparse may wrap in a ValueError."""
    while error is not None and not isinstance(error, InputError | ArgumentError):
        error = error.__cause__ or error.__context__
    return error


def _help_of(function: Callable[..., None], name: str) -> str:
    """Returns the line of an argument under `Args:`."""
    told = re.search(rf"^ +{name}: (.*(?:\n {{8,}}.*)*)", inspect.getdoc(function) or "", re.M)
    return " ".join(told[1].split()) if told else "One or several."


def _call(command: Command, arguments: list[str]) -> None:
    """Calls a command: parameters without a default are positional, all others are options.

    A list takes any number of words, such as `gridclip detect --run RUN --names NAMES IMAGE...`.
    """
    function = command.load()
    signature = dict(inspect.signature(function).parameters)
    takes_trust = signature.pop("trust", None) is not None
    parameters = signature.values()
    positional: set[str | int] = {
        each.name
        for each in parameters
        if each.default is each.empty and each.kind is not each.KEYWORD_ONLY
    }
    options: set[str | int] = {each.name for each in parameters if each.name not in positional}
    lists = {
        each.name: get_args(each.annotation)[0]
        for each in parameters
        if each.name in positional and get_origin(each.annotation) is list
    }
    parser = ArgumentParser(
        prog=f"gridclip {command.words}",
        description=(inspect.getdoc(function) or "").partition("\n")[0],
        exit_on_error=False,
        parser_mode=PARSER_MODE,
    )
    parser.add_argument(trust.FLAG, action="store_true", help=trust.HELP)
    for name, kind in sorted(lists.items()):
        parser.add_argument(name, type=kind, nargs="+", help=_help_of(function, name))
    for skipped, as_positional in ((options | lists.keys(), True), (positional, False)):
        parser.add_function_arguments(
            function,
            skip={*skipped, "trust"},
            as_group=False,
            as_positional=as_positional,
            sub_configs=True,  # a class may be given as a YAML file: --teacher teacher.yaml
        )
    words = [_SHORT.get(word, word) for word in arguments]
    with trust.importing_known_code(trust=trust.FLAG in words):
        parsed = parser.parse_args(words)
        if not parsed.trust:
            trust.refuse_functions(parsed)
        settings = parser.instantiate_classes(parsed).as_dict()
    if not takes_trust:
        del settings["trust"]
    function(**settings)
