"""Commands that run a frozen network over many images once, and keep what it gave."""
