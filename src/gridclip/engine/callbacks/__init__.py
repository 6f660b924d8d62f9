"""What a run shows while it goes: images, figures, loggers, panels."""
