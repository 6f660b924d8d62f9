"""Dense one-stage open-vocabulary detection with CLIP, on LVIS, in PyTorch Lightning.

detector = gridclip.load("runs/mini-gridclip/20261121-080752")
detector.detect("image.jpg", ["red striped star", "green ring"])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridclip.engine.detect.examples import Example as Example
    from gridclip.engine.detect.findings import Findings as Findings
    from gridclip.engine.detect.findings import Found as Found
    from gridclip.engine.detect.tiles import Tiles as Tiles
    from gridclip.engine.predictor import TrainedDetector as TrainedDetector
    from gridclip.engine.predictor import load as load

__version__ = "0.1.0"
__all__ = ["Example", "Findings", "Found", "Tiles", "TrainedDetector", "__version__", "load"]

_PLACES = {
    "Example": "gridclip.engine.detect.examples",
    "Findings": "gridclip.engine.detect.findings",
    "Found": "gridclip.engine.detect.findings",
    "Tiles": "gridclip.engine.detect.tiles",
    "TrainedDetector": "gridclip.engine.predictor",
    "load": "gridclip.engine.predictor",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported when first used: torch and Lightning take seconds, and small commands need neither.
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'gridclip' has no attribute {name!r}")
