"""Rows of data files: JSON lines, JSON or parquet, on disk or in a zip."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from fp_bench.errors import UnavailableError, UsageError, first_line

Row = Mapping[str, Any]
T = TypeVar("T")

UNREADABLE = (OSError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error)


def rows(file: Traversable, owner: str) -> Iterator[Row]:
    """Yield the rows of a file: ``.parquet``, ``.json`` (one list), else one JSON object per line.

    Args:
        file: a path, or a place in a zip.
        owner: the suite, for messages.

    Raises:
        UnavailableError: it cannot be read, or a row is not an object.
    """
    for number, row in _parsed(file, owner):
        if not isinstance(row, dict):
            raise UnavailableError(f"{owner}: {file}:{number} is no JSON object")
        yield row


def count(file: Traversable, owner: str) -> int:
    """Return the number of rows of a file; lines are counted, not parsed.

    Raises:
        UnavailableError: it cannot be read.
    """
    lines = _parsed(file, owner) if file.name.endswith((".parquet", ".json")) else _lines(file, owner)
    return sum(1 for _ in lines)


def numbered(rows: Iterable[T], indices: Sequence[int], what: str) -> Iterator[tuple[int, T]]:
    """Yield the rows of ascending numbers, from 0, and read no further.

    Args:
        rows: all of them, or what was made of them.
        indices: which.
        what: their name, for messages, e.g. ``longbench: qasper``.

    Raises:
        UsageError: there are fewer.
    """
    left = iter(indices)
    wanted = next(left, None)
    for number, row in enumerate(rows):
        if wanted is None:
            return
        if number == wanted:
            yield number, row
            wanted = next(left, None)
    if wanted is not None:
        raise UsageError(f"{what} has no sample {wanted}; ask for fewer")


def _parsed(file: Traversable, owner: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows with their numbers; of lines, those of the lines."""
    if file.name.endswith(".parquet"):
        yield from enumerate(_parquet(file, owner), start=1)
    elif file.name.endswith(".json"):
        yield from enumerate(_json_list(file, owner), start=1)
    else:
        for number, line in _lines(file, owner):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise UnavailableError(f"{owner}: {file}:{number} is no JSON: {error}") from None


def _lines(file: Traversable, owner: str) -> Iterator[tuple[int, str]]:
    """Yield non-empty lines with their numbers."""
    try:
        with file.open(encoding="utf-8") as lines:
            yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    except UNREADABLE as error:
        raise _unreadable(file, owner, error) from None


def _json_list(file: Traversable, owner: str) -> list[Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise _unreadable(file, owner, error) from None
    except ValueError as error:
        raise UnavailableError(f"{owner}: {file} is no JSON: {error}") from None
    if not isinstance(found, list):
        raise UnavailableError(f"{owner}: {file} is no JSON list")
    return found


def _parquet(file: Traversable, owner: str) -> Iterator[Any]:
    import datasets

    try:
        if not isinstance(file, Path):
            raise OSError("it is in a zip; unpack it")
        yield from datasets.Dataset.from_parquet(str(file))
    except Exception as error:  # whatever pyarrow or datasets raise
        raise _unreadable(file, owner, error) from None


def _unreadable(file: Traversable, owner: str, error: Exception) -> UnavailableError:
    reason = first_line(error)
    return UnavailableError(f"{owner}: {file} cannot be read: {reason}")
