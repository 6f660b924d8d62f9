"""W&B sweep files, run here or anywhere.

Reading order: runner (the command), spec (what a file says; section, parameters and laws below it),
search (where to try next), sweep (the loop; trial, command and process below it), then what people
see: progress and table.
"""
