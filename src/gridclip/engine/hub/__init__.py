"""Runs on a hub of models, by huggingface_hub.

In reading order: `shared_run.py` (what of a run is shared, and its weights), `model_card.py` (what
it says of itself), `transfer.py` (to a hub, and from it).
"""
