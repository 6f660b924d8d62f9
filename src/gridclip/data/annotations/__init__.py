"""Annotation files: read, checked, repaired, and kept as columns on disk."""
