"""How a trained detector is run. In a module of its own, so that `--help` needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How a detector is run; detections differ by rounding only.

    Args:
        bf16: Networks in bf16: faster where the processor knows it. Scores are made in fp32.
        channels_last: Feature maps channels last in memory, as convolutions like best.
        compile: Compile the networks when they first run, for many images of few sizes.
    """

    bf16: bool = False
    channels_last: bool = True
    compile: bool = False
