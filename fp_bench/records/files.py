"""Writing files so that a kill or a full disk leaves the old content or the new one, never a part."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step, and wait until it is on disk; a link in its place is replaced, never followed.

    Raises:
        OSError: the disk refuses; what was there before stays.
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
