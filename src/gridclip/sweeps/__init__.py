"""W&B sweep files, run here or anywhere.

Reading order: runner (the command), spec (what a file says; section, parameters and laws below it),
search (where to try next; bayes and hyperband beside it), begin (a sweep's folder and storage),
running (the loop and what it stands on), storage (where runners meet), then what people see:
progress, table and status.
"""
