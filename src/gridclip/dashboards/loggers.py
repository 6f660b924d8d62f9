"""The two loggers of every run: W&B, offline until you log in, and TensorBoard."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger


def default_loggers(folder: Path) -> list[Logger]:
    """Both loggers, writing under the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mode = os.environ.get("WANDB_MODE", "online" if logged_in() else "offline")
    return [
        TensorBoardLogger(save_dir=folder, name="tensorboard", version=""),
        WandbLogger(
            project="gridclip", name=folder.name, save_dir=folder, offline=mode == "offline"
        ),
    ]


def logged_in() -> bool:
    """Whether `wandb login` or WANDB_API_KEY has left a key; nothing is asked of the network.

    wandb.login(prompt=False) would answer too, but it keeps later offline runs from starting.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(server or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
