"""Data sets that are drawn: the mini world."""
