"""Training of the bundled mini CLIP, and how well it names what it sees."""
