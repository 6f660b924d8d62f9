"""Data sets that are drawn: the mini world, and scenes composed of cut-outs."""
