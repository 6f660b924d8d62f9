"""Images without boxes: folders, captions, shards, and what a CLIP saw in them."""
