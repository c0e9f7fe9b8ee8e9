"""FlashPrefill over what an inference engine holds: packed queries of many sequences, keys and values in pages."""
