"""W&B sweep files, run here or anywhere."""
