"""Reads run folders. Files may come from strangers: everything is checked, and sizes are limited."""

import gc
import gzip
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from fp_bench.errors import UsageError
from fp_bench.records.record import SCHEMA_VERSION, AnyRecord, Name, Record, problem

RECORDS = "records.jsonl"
COMPRESSED = f"{RECORDS}.gz"
"""Compressed records of a finished run; read, never written."""
ENVIRONMENTS = "env.json"

LONGEST_LINE, MOST_LINES, MOST_BYTES = 4 * 2**20, 500_000, 2**30
"""Limit of an unpacked file of records; all of RULER at six lengths with eight methods has 300,000 lines."""
LARGEST_ENVIRONMENTS = 2**24
"""Bytes."""
MOST_NAMED = 5
"""Number of invalid lines that are named; more are counted."""
OURS = b'{"schema_version":%d,"kind":"' % SCHEMA_VERSION
"""Start of every line that this version writes."""

_LINE: TypeAdapter[Record] = TypeAdapter(AnyRecord)


class _Environment(TypedDict, total=False):
    """Facts of an environment that the code uses."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    gpu: dict[str, Any] | None
    cpu: Name | None
    cpu_cores: int | None
    packages: dict[str, Any] | None


_ENVIRONMENTS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[Name, _Environment])


class Reading(NamedTuple):
    """What a file of records held."""

    records: list[Record]
    size: int
    """Bytes of its whole lines."""
    torn: bool
    """Whether the last line is an incomplete record of ours, because a writer was killed."""
    bad: list[str]
    """The first invalid lines: file, number and reason of each."""
    bad_lines: int
    """How many there are."""


def read_records(folder: Path) -> Reading:
    """Read a run folder's records; each invalid line gives a warning, and the rest is used.

    Raises:
        UsageError: no such run, a file beyond the limits, or one without any record.
    """
    try:
        path = next((path for name in (RECORDS, COMPRESSED) if (path := folder / name).is_file()), None)
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from None
    if path is None:
        raise UsageError(f"{folder} holds no {RECORDS}; give the folder that `fpbench latency --out` wrote")
    reading = parse(path)
    if reading.bad and not reading.records:
        raise UsageError(f"{reading.bad[0]}; no line of the file is a record")
    for line in reading.bad:
        warnings.warn(f"{line}; skipped", stacklevel=2)
    if (more := reading.bad_lines - len(reading.bad)) > 0:
        warnings.warn(f"{path}: {more} more lines are not records; skipped", stacklevel=2)
    return reading


def parse(path: Path) -> Reading:
    """Read a file of records.

    Raises:
        UsageError: it cannot be read, or is beyond the limits.
    """
    # A hundred thousand records make no garbage, but collecting it takes as long as reading them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _parse(path)
    finally:
        if collecting:
            gc.enable()


def _parse(path: Path) -> Reading:
    records: list[Record] = []
    bad: list[str] = []
    size = number = 0
    for number, line in enumerate(_lines(path), 1):
        whole = line.endswith(b"\n")
        if not whole and (line.startswith(OURS) or OURS.startswith(line)):
            return Reading(records, size, True, bad, number - 1 - len(records))
        try:
            if not whole:
                raise UsageError("it is incomplete and does not begin like a record")
            records.append(_LINE.validate_json(line))
        except (ValidationError, UsageError) as error:
            if len(bad) < MOST_NAMED:
                bad.append(f"{path} line {number} is not a record: {_why_not(line, error)}")
        size += len(line)
    return Reading(records, size, False, bad, number - len(records))


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked.

    Raises:
        UsageError: it cannot be read, or is beyond the limits.
    """
    size = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number in range(1, MOST_LINES + 2):
                line = file.readline(LONGEST_LINE + 1)
                size += len(line)
                if not line:
                    return
                if number > MOST_LINES or len(line) > LONGEST_LINE or size > MOST_BYTES:
                    raise UsageError(
                        f"{path} line {number} exceeds the limits: {MOST_LINES} lines of {LONGEST_LINE} bytes, "
                        f"{MOST_BYTES} bytes in all"
                    )
                yield line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is an incomplete gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _why_not(line: bytes, error: ValidationError | UsageError) -> str:
    if isinstance(error, UsageError):
        return str(error)
    try:
        fields = from_json(line)
    except ValueError as broken:
        return f"it is not JSON ({broken})"
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return f"schema_version {version} is newer than {SCHEMA_VERSION}, that of this fpbench; update fpbench"
    return problem(error)


def read_environments(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the environments of a run folder by their id; empty if there are none.

    Raises:
        UsageError: the file is unreadable or invalid.
    """
    path = folder / ENVIRONMENTS
    if not path.is_file():
        return {}
    advice = "delete it to continue without them"
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_ENVIRONMENTS + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; {advice}") from None
    if len(text) > LARGEST_ENVIRONMENTS:
        raise UsageError(f"{path} is larger than {LARGEST_ENVIRONMENTS} bytes; {advice}")
    try:
        return _ENVIRONMENTS.validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{path} holds no environments ({problem(error)}); {advice}") from None
