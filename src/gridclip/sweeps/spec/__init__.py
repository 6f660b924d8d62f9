"""What a W&B sweep file says."""
