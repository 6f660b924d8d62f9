"""A place in which a stranger's files are opened, and what each refusal must say."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

import gridclip
from gridclip.cli import main

Open = Callable[[], object]
EVIL = "runs.stranger.payload.Evil"
PAYLOAD = """
from pathlib import Path
Path("pwned").touch()
from gridclip.models.encoders.backbones import ClipResNet as Evil
from lightning.pytorch import Callback as Spy
"""


class World(NamedTuple):
    """A working directory in which a stranger's run lies."""

    root: Path
    run: Path  # runs/stranger: a sound run, and payload.py, which leaves the file pwned

    def configure(self, place: str, value: object) -> None:
        """Sets one key of config.yaml."""
        file = self.run / "config.yaml"
        whole = tree = yaml.safe_load(file.read_text())
        *path, last = place.split(".")
        for key in path:
            tree = tree[key]
        tree[last] = value
        file.write_text(yaml.safe_dump(whole))

    def checkpoint(self, **more: object) -> Path:
        """Adds to last.ckpt what torch can save."""
        file = self.run / "checkpoints" / "last.ckpt"
        content = torch.load(file, weights_only=True) | more
        file.unlink()  # it is linked to that of other worlds
        torch.save(content, file)
        return file

    def load(self) -> object:
        return gridclip.load("runs/stranger")

    def call(self, verb: str, *more: str) -> Open:
        """A verb on the configuration of the run."""
        quiet = ["--trainer.logger=false", "--run_dir=mine", "--trainer.max_steps=1"]
        return lambda: main([verb, "--config=runs/stranger/config.yaml", *quiet, *more])


class Payload:
    """Pickled, it becomes a command."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


class Case(NamedTuple):
    """Hostile files, and the patterns of what is said about them."""

    name: str
    make: Callable[[World], Open]  # writes them; what it returns opens them
    file: str
    field: str  # "" for a file that is refused as a whole
    problem: str
    fix: str = ""

    def refusal(self) -> str:
        """The pattern of the message."""
        place = "".join(f"{each}: " for each in (self.file, self.field) if each)
        return rf"{place}(.|\n)*{self.problem}(.|\n)*\n  fix: .*{self.fix}"


def bomb(levels: int = 30) -> str:
    """YAML of a page that stands for 2 to the power of `levels` values."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join([*lines, f"model: {{detector: *a{levels - 1}}}"])
