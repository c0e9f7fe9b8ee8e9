"""Parts of loading a model: checks of its file and configuration, and imports made once."""
