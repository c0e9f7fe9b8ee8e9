"""Jobs: work items measured or answered in worker processes, and every result on disk at once."""
