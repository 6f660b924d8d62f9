"""Annotations, images and vocabularies, from files to batches."""
