"""A detector of another run, whose proposals are used as they are."""

from gridclip.detectors.two_stage.regions import TwoStageDetector
from gridclip.weight_files import fill, read_torch

_MARK = "detector."
_FIX = "give a checkpoint of a run, and that run's recipe as the proposer: config.yaml beside it"


def load_proposer(proposer: TwoStageDetector, file: str) -> None:
    """Load the detector of a run's checkpoint.

    Raises:
        InputError: if the file is missing, unreadable, or of another detector.
    """
    state = read_torch(file, field="checkpoint", fix=_FIX).get("state_dict", {})
    own = {name.removeprefix(_MARK): state[name] for name in state if name.startswith(_MARK)}
    fill(proposer, own, file, field="checkpoint", fix=_FIX)
