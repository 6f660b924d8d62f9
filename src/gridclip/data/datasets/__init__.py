"""Hybrid training data: boxes with names, phrases with boxes, and captioned images in one form."""
