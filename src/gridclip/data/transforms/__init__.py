"""From a stored image to what the network sees."""
