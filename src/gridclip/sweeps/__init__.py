"""W&B sweep files, run here or anywhere.

Reading order: running/command (the command), spec (what a file says: sweep_file, yaml_section,
parameters and distributions), search (where to try next), running/start (a sweep's folder and
storage), running/runner (the loop and what it stands on), storage (where runners meet), then what
people see: results/progress, table, over_seeds, paired, over_images, compare and report.
"""
