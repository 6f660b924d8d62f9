"""What frozen networks predicted for many images, kept on disk."""
