"""Jobs: work items measured or answered in worker processes, with every result written to disk at once."""
