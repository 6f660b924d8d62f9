"""Annotation files: read, checked, mended, and kept as columns on disk."""
