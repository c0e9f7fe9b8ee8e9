"""Records, without torch."""
