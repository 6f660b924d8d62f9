"""Which point a sweep tries next, and which trials it stops."""
