"""Records and everything derived from them; nothing in here imports torch."""
