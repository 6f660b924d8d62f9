"""What a frozen CLIP said of many images, kept on disk."""
