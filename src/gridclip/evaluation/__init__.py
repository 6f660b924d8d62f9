"""LVIS average precision under two named protocols."""
