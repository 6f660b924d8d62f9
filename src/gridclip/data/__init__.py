"""Annotations, pictures and vocabularies, from files to batches."""
