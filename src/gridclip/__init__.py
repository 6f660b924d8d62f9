"""Dense one-stage open-vocabulary detection with CLIP, on LVIS, in PyTorch Lightning."""

__version__ = "0.1.0"
