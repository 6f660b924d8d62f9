"""The bundled mini CLIP: an open_clip configuration and weights trained on the mini world."""

from pathlib import Path

CONFIG_DIR = Path(__file__).parent
"""Give it to `open_clip.add_model_config`, which then knows `MODEL_NAME`."""

MODEL_NAME = "gridclip-mini"
WEIGHTS = CONFIG_DIR / "gridclip-mini.safetensors"
RECORD = CONFIG_DIR / "record.json"
"""How the weights were made, and their zero-shot accuracy."""
