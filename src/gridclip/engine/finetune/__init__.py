"""Fine-tuning on own names, so that the old ones are kept: data, names, weights, and the table."""
