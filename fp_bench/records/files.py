"""Atomic writes: after a kill or on a full disk a file has its old or its new content, never a part."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically and sync it to disk; a link in its place is replaced, never followed.

    Raises:
        OSError: the disk refuses; the old content stays.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)  # of a writer that was killed, or a link
        with fresh.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
