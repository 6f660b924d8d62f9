"""The small commands, each a typed function; jsonargparse makes the command line of them."""

from typing import Any

from gridclip.clip.pretrain import train_mini_clip
from gridclip.data.mini import make_mini
from gridclip.evaluation.command import evaluate_command
from gridclip.sweeps.runner import run_sweep
from gridclip.trained import detect_command

COMMANDS: dict[str, Any] = {
    "data": {"mini": make_mini},
    "clip": {"train": train_mini_clip},
    "detect": detect_command,
    "evaluate": evaluate_command,
    "sweep": {"run": run_sweep},
}
