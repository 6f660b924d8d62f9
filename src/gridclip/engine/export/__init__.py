"""Detectors for other runtimes.

In reading order: `command.py`, `onnx_file.py` (from a graph of torch to a file), `facts.py` (what a
file says of itself), `exported.py` (a file that detects again).
"""
