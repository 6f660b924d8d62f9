"""Pure functions on tensors: boxes, assignment, losses, suppression, and rows of all processes."""
