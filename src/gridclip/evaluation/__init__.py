"""LVIS average precision of boxes under two named protocols, from files or from a validation."""
