"""The command line: Lightning's four verbs, and the small commands around them."""

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_origin

from jsonargparse import ArgumentError, ArgumentParser

from gridclip.io.errors import InputError

VERBS = ("fit", "validate", "test", "predict")

# Where each small command is. Only the one that is called is imported: torch takes seconds.
COMMANDS = {
    "data mini": "gridclip.data.synthetic.mini_dataset:make_mini",
    "data hold-out": "gridclip.data.annotations.hold_out:hold_out",
    "data check": "gridclip.data.annotations.check:check_annotations",
    "data show": "gridclip.data.drawing:show_samples",
    "data concepts": "gridclip.data.datasets.concept_pool:concepts_command",
    "data entities": "gridclip.data.datasets.grounding:entities_command",
    "data pack": "gridclip.data.images.pack:pack_command",
    "data pseudo-label": "gridclip.engine.precompute.pseudo_label:pseudo_label_command",
    "data embed": "gridclip.engine.precompute.embed_images:embed_command",
    "clip train": "gridclip.engine.clip_training.mini_clip:train_mini_clip",
    "clip embed-proposals": "gridclip.engine.precompute.regions:embed_proposals_command",
    "clip convert-regionclip": "gridclip.models.regionclip.released_weights:convert_regionclip",
    "propose": "gridclip.engine.precompute.regions:propose_command",
    "classify": "gridclip.engine.predict_commands:classify_command",
    "evaluate": "gridclip.evaluation.command:evaluate_command",
    "sweep run": "gridclip.sweeps.running.command:run_sweep",
    "sweep list": "gridclip.sweeps.running.status:list_sweeps",
    "sweep status": "gridclip.sweeps.running.status:sweep_status",
    "sweep stop": "gridclip.sweeps.running.status:stop_sweep",
    "sweep table": "gridclip.sweeps.running.status:sweep_table",
    "sweep report": "gridclip.sweeps.running.status:sweep_report",
    "dashboard show": "gridclip.engine.callbacks.wandb_workspace:show_workspace",
    "dashboard push": "gridclip.engine.callbacks.wandb_workspace:push_workspace",
}

HELP = """usage: gridclip COMMAND ...

train, evaluate and use a detector
  gridclip fit | validate | test | predict --config ROW.yaml
  gridclip detect --run RUN --names "a cup, a cat" IMAGE...     find things in images
  gridclip classify --run RUN --boxes JSON --names "…" IMAGE    name the boxes that you give
  gridclip sweep run SWEEP.yaml                                 run a W&B sweep file here
  gridclip sweep list                                           how far every sweep is
  gridclip sweep status ID                                      how one stands, and who runs it
  gridclip sweep stop ID                                        on whatever machines it runs
  gridclip sweep table ID --over seed_everything --output PAGE.md
  gridclip sweep report ID                                      write its page, or that of "latest"
  gridclip dashboard show                                       the panels of a W&B project
  gridclip dashboard push ENTITY                                make them there
  gridclip evaluate --annotations GT.json --detections DT.json  LVIS AP of anyone's boxes

data with boxes
  gridclip data mini DIR                                        draw the mini data set
  gridclip data check FILE --images DIR                         list every problem of a file
  gridclip data hold-out FILE OUTPUT                            COCO's 48 and 17 names, or yours
  gridclip data show DIR                                        draw augmented images

data without boxes, and teachers
  gridclip data concepts SOURCE... --output NAMES.txt           count what captions speak of
  gridclip data entities DIR --output GROUNDING.json            Flickr30k Entities as one file
  gridclip data pack SOURCE DIR                                 write tar shards with an index
  gridclip data pseudo-label SOURCE --vocabulary NAMES --output FILE
  gridclip data embed FILE --output FILE                        store a teacher's embeddings
  gridclip clip train                                           train the mini CLIP again
  gridclip clip convert-regionclip FILE --output CLIP           RegionCLIP's published weights
  gridclip propose FILE --run RUN --output PROPOSALS            store where something may be
  gridclip clip embed-proposals PROPOSALS --source FILE --output REGIONS

gridclip COMMAND --help says more.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; an error in what was given ends it with status 2 and one message."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb, pair = " ".join(arguments[:1]), " ".join(arguments[:2])
    try:
        if verb in VERBS:
            from gridclip.engine.lightning_cli import run_lightning

            run_lightning(None if argv is None else arguments)
        elif verb == "detect":
            _detect(arguments[1:])
        elif pair in COMMANDS:
            _call(pair, arguments[2:])
        elif verb in COMMANDS:
            _call(verb, arguments[1:])
        elif not arguments or {"-h", "--help"} & set(arguments[:2]):
            sys.stdout.write(HELP)
        else:
            raise InputError(f"there is no command {pair!r}", fix="see gridclip --help")
    except (InputError, ArgumentError, ValueError) as error:
        told = _told(error)
        if told is None:
            raise
        sys.stderr.write(f"error: {told}\n")
        sys.exit(2)


def _told(error: BaseException | None) -> BaseException | None:
    """What was wrong with the input, which jsonargparse may have wrapped in a ValueError."""
    while error is not None and not isinstance(error, InputError | ArgumentError):
        error = error.__cause__ or error.__context__
    return error


def _detect(arguments: list[str]) -> None:
    """Any number of images at the end, as every shell user expects; auto_cli cannot say that."""
    from gridclip.engine.predict_commands import detect_command

    parser = ArgumentParser(prog="gridclip detect", exit_on_error=False)
    parser.add_function_arguments(detect_command, skip={"images"}, as_positional=False)
    parser.add_argument("images", type=Path, nargs="+", help="Image files.")
    settings = parser.instantiate_classes(parser.parse_args(arguments))
    detect_command(**settings.as_dict())


def _call(name: str, arguments: list[str]) -> None:
    """Call a command's function: what it takes by place comes by place, the rest as options."""
    module, _, function = COMMANDS[name].partition(":")
    command: Callable[..., None] = getattr(importlib.import_module(module), function)
    taken = inspect.signature(command).parameters.values()
    by_place: set[str | int] = {
        each.name
        for each in taken
        if each.default is each.empty and each.kind is not each.KEYWORD_ONLY
    }
    options: set[str | int] = {each.name for each in taken if each.name not in by_place}
    lists: set[str | int] = {each.name for each in taken if get_origin(each.annotation) is list}
    parser = ArgumentParser(prog=f"gridclip {name}", exit_on_error=False)
    for several in sorted(map(str, by_place & lists)):
        parser.add_argument(several, type=Path, nargs="+", help="One or several.")
    parser.add_function_arguments(command, skip=options | lists, as_group=False, as_positional=True)
    parser.add_function_arguments(command, skip=by_place, as_group=False, as_positional=False)
    words = ["--jobs" if word == "-j" else word for word in arguments]  # as make calls it
    settings = parser.instantiate_classes(parser.parse_args(words))
    command(**settings.as_dict())
