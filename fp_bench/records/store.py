"""A run folder: ``records.jsonl`` with one writer, ``env.json``, and reading them back, also ``records.jsonl.gz``."""

import fcntl
import gc
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.records.environment import machine_name
from fp_bench.records.files import replace_file
from fp_bench.records.kept_maps import KeptMap, map_path, write_maps
from fp_bench.records.record import KINDS, SCHEMA_VERSION, AccuracyRecord, LatencyRecord, Record, Status

R = TypeVar("R", bound=Record)

RECORDS = "records.jsonl"
COMPRESSED = f"{RECORDS}.gz"
"""What a finished run may be kept as: it is read, not written."""
ENVIRONMENTS = "env.json"

_LINE: TypeAdapter[Record] = TypeAdapter(Annotated[LatencyRecord | AccuracyRecord, Field(discriminator="kind")])
"""Reads a line some four times as fast as json does; what it refuses is read again for a better reason."""


class Records(list[R]):
    """Records of one kind of one run; tables made of them by `remembered` functions are made once."""

    def __init__(self, records: Iterable[R]) -> None:
        super().__init__(records)
        self.made: dict[object, Any] = {}


T = TypeVar("T")


def remembered(make: Callable[[Sequence[R]], T]) -> Callable[[Sequence[R]], T]:
    """Make a function of records remember what it made of `Records`; each caller gets a copy of its own."""

    @wraps(make)
    def made(records: Sequence[R]) -> T:
        if not isinstance(records, Records):
            return make(records)
        if make not in records.made:
            records.made[make] = make(records)
        found: T = copy(records.made[make])
        return found

    return made


@remembered
def newest(records: Sequence[R]) -> list[R]:
    """Return the last record of each cell and round, of the newest version of the code that tried the cell."""
    newest_code = {record.cell_key: record.code_version for record in records}
    return [record for record in latest(records) if record.code_version == newest_code[record.cell_key]]


def latest(records: Iterable[R]) -> list[R]:
    """Return the last record of each cell, version of the code and round: one tried again replaces its failure.

    A cell fails from one round on; measuring that round again takes the failure back.
    """
    return list({(record.cell_key, record.code_version, record.round): record for record in records}.values())


class Reading(NamedTuple):
    """What a run folder held: its whole records, the bytes they take, and whether a torn last line was dropped."""

    records: list[Record]
    size: int
    torn: bool


@dataclass(frozen=True)
class Run:
    """A run folder as it was read."""

    folder: Path
    records: Sequence[Record]
    environments: Mapping[str, dict[str, Any]]

    @cached_property
    def latency(self) -> Records[LatencyRecord]:
        """The records of times."""
        return Records(record for record in self.records if isinstance(record, LatencyRecord))

    @cached_property
    def accuracy(self) -> Records[AccuracyRecord]:
        """The records of scores."""
        return Records(record for record in self.records if isinstance(record, AccuracyRecord))

    @property
    def environment(self) -> dict[str, Any]:
        """Of the newest record that has one."""
        known = (self.environments[r.env] for r in reversed(self.records) if r.env and r.env in self.environments)
        return next(known, {})

    @property
    def machine(self) -> str:
        """What it ran on."""
        return machine_name(self.environment)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UsageError: no such run, no whole record in it, or a line that is no record and is not the last.
    """
    records = read_records(folder).records
    if not records:
        raise UsageError(f"{folder} has no whole record yet; measure with fpbench latency or accuracy --out {folder}")
    return Run(folder, records, read_environments(folder))


def run_folders(folder: Path) -> list[Path]:
    """Return the run folders at and below a folder, in order.

    Raises:
        UsageError: there is none.
    """
    found = sorted({path.parent for name in (RECORDS, COMPRESSED) for path in folder.rglob(name)})
    if not found:
        raise UsageError(f"{folder} holds no {RECORDS}; give run folders, or a folder of them")
    return found


def read_records(folder: Path) -> Reading:
    """Read a run folder's records; a torn last line (a writer was killed in it) is dropped.

    Raises:
        UsageError: no such run, or a line that is no record and is not the last.
    """
    path = next((path for name in (RECORDS, COMPRESSED) if (path := folder / name).is_file()), None)
    if path is None:
        raise UsageError(f"{folder} holds no {RECORDS}; give the folder that `fpbench latency --out` wrote")
    data = path.read_bytes() if path.name == RECORDS else _unpacked(path)
    # A hundred thousand records make no garbage, and looking for it takes as long as reading them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _parse(data, path)
    finally:
        if collecting:
            gc.enable()


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is no whole gzip file ({error}); fetch it again") from None


def read_environments(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the environments of a run folder by their id; empty where none were written."""
    path = folder / ENVIRONMENTS
    if not path.is_file():
        return {}
    try:
        environments: dict[str, dict[str, Any]] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON ({error}); delete it to go on without") from None
    return environments


def _parse(data: bytes, path: Path) -> Reading:
    lines = data.splitlines(keepends=True)
    records: list[Record] = []
    size = 0
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it has no end")
            records.append(_record(line))
        except UsageError as error:
            raise UsageError(f"{path} line {number}: {error}") from None
        except ValueError as error:  # broken JSON, broken UTF-8 and pydantic's refusals are all ValueErrors
            if number == len(lines):
                return Reading(records, size, torn=True)
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UsageError(f"{path} line {number} is not a record: {first}") from None
        size += len(line)
    return Reading(records, size, torn=False)


def _record(line: bytes) -> Record:
    try:
        record = _LINE.validate_json(line)
        if record.schema_version <= SCHEMA_VERSION:
            return record
    except ValidationError:
        pass
    fields = json.loads(line)
    version = fields.get("schema_version", 0) if isinstance(fields, dict) else 0
    if version > SCHEMA_VERSION:
        raise UsageError(f"schema_version {version} is newer than {SCHEMA_VERSION}, this fpbench's; update fpbench")
    kind = fields.get("kind", "latency") if isinstance(fields, dict) else "latency"
    if kind not in KINDS:
        raise UsageError(f"unknown kind of record {kind!r}; known: {', '.join(KINDS)}")
    return KINDS[kind].model_validate(fields)


class RecordStore:
    """The one writer of a run folder; use it as a context manager.

    Every `append` is on disk when it returns. Opening an existing folder resumes it: `settled` says what need not
    be measured again, and a torn last line is cut off (`torn`).

    Args:
        folder: the run folder, made when it does not exist.

    Raises:
        UsageError: the folder cannot be written, holds compressed records, or another fpbench is writing to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / COMPRESSED).exists() and not (folder / RECORDS).exists():
            raise UsageError(f"{folder / COMPRESSED} is a finished run; gunzip it to go on, or give another --out")
        self._file = _open_locked(folder)
        try:
            existing = _parse((folder / RECORDS).read_bytes(), folder / RECORDS)
        except BaseException:
            os.close(self._file)
            raise
        self._size = existing.size
        if existing.torn:
            os.ftruncate(self._file, existing.size)
        self.torn = existing.torn
        self.records: list[Record] = []
        self._environments: set[str] = set()
        """Ids of those that this run has written."""
        self._of_cell: dict[tuple[str, str], list[Record]] = {}
        for record in existing.records:
            self._add(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def append(self, record: Record) -> None:
        """Write one record and wait until it is on disk.

        Raises:
            UnavailableError: the disk refuses it, e.g. because it is full; what was written before stays whole.
        """
        line = record.model_dump_json(exclude_none=True).encode() + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise self._refused(error) from None
        self._size += len(line)
        self._add(record)

    def _add(self, record: Record) -> None:
        self.records.append(record)
        self._of_cell.setdefault((record.cell_key, record.code_version), []).append(record)

    def settled(self, cell_key: str, code_version: str, *, retry_failed: bool = False) -> frozenset[int] | None:
        """Return the rounds this version of the code has measured of a cell; None when it failed, for good.

        Args:
            cell_key: the cell.
            code_version: of the code that would measure it.
            retry_failed: whether a failed cell is to be measured again, where it failed.
        """
        mine = self._latest(cell_key, code_version)
        if not retry_failed and any(record.status != "ok" for record in mine):
            return None
        return frozenset(record.round for record in mine if record.status == "ok")

    def status(self, cell_key: str, code_version: str) -> Status | None:
        """Return how measuring a cell went: ``ok``, how it failed, or None when it was not tried."""
        mine = self._latest(cell_key, code_version)
        return next((record.status for record in mine if record.status != "ok"), "ok" if mine else None)

    def _latest(self, cell_key: str, code_version: str) -> list[Record]:
        return latest(self._of_cell.get((cell_key, code_version), []))

    def machines(self, kind: str) -> set[str]:
        """Return the names of the machines that records of a kind were measured on."""
        environments = read_environments(self.folder)
        used = {record.env for record in self.records if record.kind == kind and record.env in environments}
        return {machine_name(environments[str(env)]) for env in used}

    def add_maps(self, cell_key: str, code_version: str, maps: Sequence[KeptMap]) -> None:
        """Keep the maps of a cell beside the records.

        Raises:
            UnavailableError: the disk refuses them.
        """
        if not maps:
            return
        try:
            write_maps(map_path(self.folder, cell_key, code_version), maps)
        except OSError as error:
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"cannot write to {self.folder}: {error.strerror}; {len(self.records)} records are kept, and the same "
            "command resumes"
        )

    def add_environment(self, environment: Mapping[str, Any]) -> str:
        """Keep an environment in ``env.json`` and return its id.

        Raises:
            UnavailableError: the disk refuses it.
        """
        text = json.dumps(environment, sort_keys=True)
        env_id = hashlib.sha256(text.encode()).hexdigest()[:12]
        if env_id in self._environments:
            return env_id
        known = read_environments(self.folder) | {env_id: dict(environment)}
        try:
            replace_file(self.folder / ENVIRONMENTS, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
        except OSError as error:
            raise self._refused(error) from None
        self._environments.add(env_id)
        return env_id


def _open_locked(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / RECORDS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; give another --out") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise UsageError(f"another fpbench is writing to {folder}; wait for it or give another --out") from None
    return file
