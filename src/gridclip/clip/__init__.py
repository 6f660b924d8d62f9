"""The frozen CLIP side: text vectors, image teacher, dense attention pool."""
