"""Writes reports, never through links and never over foreign files."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.records.files import replace_file
from fp_bench.records.reading import COMPRESSED, RECORDS

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(page: Path, mark: str, folders: Sequence[str] = ()) -> Iterator[None]:
    """Write a page, and folders next to it, within the context.

    Args:
        page: the file; its folder is made.
        mark: text in every such page of ours.
        folders: their names; they are ours if the page is, or in a run folder.

    Raises:
        UsageError: a link or a foreign file is in the way, or it cannot be written.
        UnavailableError: the disk is full.
    """
    folder = page.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = [folder / name for name in folders]
        for path in (page, *beside):
            if path.is_symlink():
                raise UsageError(f"{path} is a link, which a report does not write through; give another --out")
        if page.exists():
            if mark not in page.read_text(errors="replace"):
                raise UsageError(f"{page} is no report of fpbench's; move it away, or give another --out")
        elif not any((folder / name).exists() for name in (RECORDS, COMPRESSED)):
            for path in beside:
                if path.exists():
                    raise UsageError(f"{path} is there without {page.name} of fpbench's; give another --out")
        for path in beside:
            path.mkdir(exist_ok=True)
        yield
    except OSError as error:
        kind = UnavailableError if error.errno in FULL else UsageError
        raise kind(
            f"cannot write the report to {page.parent}: {error.strerror}; the records are kept, and "
            "fpbench report --out writes it elsewhere"
        ) from None


def write(path: Path, content: str | bytes) -> None:
    """Write a file in one step.

    Raises:
        OSError: the disk refuses.
    """
    replace_file(path, content.encode(errors="replace") if isinstance(content, str) else content)
