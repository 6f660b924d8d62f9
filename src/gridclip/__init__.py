"""Dense one-stage open-vocabulary detection with CLIP, on LVIS, in PyTorch Lightning.

detector = gridclip.load("runs/mini-gridclip/20261121-080752")
detector.detect("image.jpg", ["red striped star", "green ring"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridclip.engine.predictor import Found as Found
    from gridclip.engine.predictor import TrainedDetector as TrainedDetector
    from gridclip.engine.predictor import load as load

__version__ = "0.1.0"
__all__ = ["Found", "TrainedDetector", "__version__", "load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported when first used: torch and Lightning take seconds, and small commands need neither.
    if name in ("Found", "TrainedDetector", "load"):
        from gridclip.engine import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'gridclip' has no attribute {name!r}")
