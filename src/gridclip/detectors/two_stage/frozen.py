"""A detector of another run, whose proposals are used as they are."""

import pickle

import torch

from gridclip.detectors.two_stage.regions import TwoStageDetector
from gridclip.errors import InputError

_MARK = "detector."


def load_proposer(proposer: TwoStageDetector, file: str) -> None:
    """Load the detector of a run's checkpoint.

    Raises:
        InputError: if the file is missing, unreadable, or of another detector.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
        own = {name.removeprefix(_MARK): state[name] for name in state if name.startswith(_MARK)}
        proposer.load_state_dict(own)
    except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"does not fit the proposer: {error}",
            file=file,
            field="checkpoint",
            fix="give the recipe of that run as the proposer: config.yaml beside it",
        ) from error
