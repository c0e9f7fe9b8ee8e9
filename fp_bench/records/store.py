"""A run folder: ``records.jsonl`` with one writer, and ``env.json``."""

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Self, TypeVar

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.records.environment import machine_name
from fp_bench.records.files import replace_file
from fp_bench.records.kept_maps import KeptMap, map_path, write_maps
from fp_bench.records.reading import COMPRESSED, ENVIRONMENTS, RECORDS, parse, read_environments, read_records
from fp_bench.records.record import AccuracyRecord, BenchmarkRecord, LatencyRecord, Record, Status
from fp_bench.records.secrets import masked

R = TypeVar("R", bound=Record)


class Records(list[R]):
    """Records of one kind of one run; `remembered` functions compute their tables once."""

    def __init__(self, records: Iterable[R]) -> None:
        super().__init__(records)
        self.made: dict[object, Any] = {}


T = TypeVar("T")


def remembered(make: Callable[[Sequence[R]], T]) -> Callable[[Sequence[R]], T]:
    """Cache a function of `Records`; each caller gets its own copy of the result."""

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
    """Return the last record of each cell and round, from the newest code version that tried the cell."""
    newest_code = {record.cell_key: record.code_version for record in records}
    return [record for record in latest(records) if record.code_version == newest_code[record.cell_key]]


def latest(records: Iterable[R]) -> list[R]:
    """Return the last record of each cell, code version and round: a retry replaces its failure.

    A cell fails from one round on; measuring that round again removes the failure.
    """
    return list({(record.cell_key, record.code_version, record.round): record for record in records}.values())


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

    @cached_property
    def benchmarks(self) -> Records[BenchmarkRecord]:
        """The records of benchmarks."""
        return Records(record for record in self.records if isinstance(record, BenchmarkRecord))

    @property
    def environment(self) -> dict[str, Any]:
        """Of the newest record that has one."""
        known = (self.environments[r.env] for r in reversed(self.records) if r.env and r.env in self.environments)
        return next(known, {})

    @property
    def machine(self) -> str:
        """The machine; several if the run was continued elsewhere."""
        used = dict.fromkeys(r.env for r in self.records if r.env in self.environments)
        names = dict.fromkeys(machine_name(self.environments[str(env)]) for env in used)
        return " and ".join(names) or machine_name({})


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UsageError: no such run, or no complete record in it.
    """
    records = read_records(folder).records
    if not records:
        raise UsageError(f"{folder} has no complete record yet; run fpbench latency or accuracy --out {folder}")
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


class RecordStore:
    """The only writer of a run folder, as a context manager.

    Every `append` is on disk when it returns. Opening an existing folder resumes it: `settled` names rounds not to be
    measured again, and an incomplete last line is removed (`torn`). A file with foreign lines is not changed.

    Args:
        folder: the run folder, made when it does not exist.

    Raises:
        UsageError: the folder cannot be written, has compressed records or something else under the names of a
            run's files, or another fpbench is writing to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = _open_locked(folder)
        try:
            existing = parse(folder / RECORDS)
            if existing.bad:
                raise UsageError(f"{existing.bad[0]}; the file was not changed: repair it, or give another --out")
            self._environments = read_environments(folder)
        except BaseException:
            os.close(self._file)
            raise
        self._size = existing.size
        if existing.torn:
            os.ftruncate(self._file, existing.size)
        self.torn = existing.torn
        self.records: list[Record] = []
        self._written: set[str] = set()
        """Ids of the environments written by this run."""
        self._of_cell: dict[tuple[str, str], list[Record]] = {}
        for record in existing.records:
            self._add(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._check_place()
        finally:
            os.close(self._file)

    def append(self, record: Record) -> None:
        """Write one record and wait until it is on disk.

        Raises:
            ValueError: an unknown field.
            UnavailableError: the disk refuses it, e.g. because it is full, and earlier records stay intact; or
                the file was replaced or removed, and all records are in another run folder next to it.
        """
        if record.model_extra:
            raise ValueError(f"undeclared fields of a record: {', '.join(record.model_extra)}")
        said = {name: masked(text) for name in ("command", "reason") if (text := getattr(record, name))}
        self.take(record.model_copy(update=said))

    def take(self, record: Record) -> None:
        """Write a record of another run as read, unknown fields included.

        Raises:
            UnavailableError: as `append`.
        """
        self._check_place(record)
        line = _line(record)
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise self._refused(error) from None
        except BaseException:  # Ctrl-C: the line is on disk, or it is not
            if written < len(line):
                os.ftruncate(self._file, self._size)
            else:
                self._keep(record, line)
            raise
        self._keep(record, line)

    def _keep(self, record: Record, line: bytes) -> None:
        self._size += len(line)
        self._add(record)

    def _check_place(self, *in_hand: Record) -> None:
        """Check that the open file still has its name and our content.

        Raises:
            UnavailableError: it was replaced, removed or changed; all records are then in a run folder next to it.
        """
        path = self.folder / RECORDS
        try:
            there = os.stat(path, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(self._file)) and there.st_size == self._size:
                return
        except OSError:
            pass
        held = [*self.records, *in_hand]
        names = (f"{self.folder.name}-saved-{number}" for number in range(1, 10_000))
        beside = next(place for name in names if not (place := self.folder.with_name(name)).exists())
        try:
            beside.mkdir(parents=True)
            replace_file(beside / RECORDS, b"".join(map(_line, held)))
            self._write_environments(beside)
        except OSError as error:
            raise UnavailableError(
                f"{path} was replaced, removed or changed during the run, and {beside} cannot be written "
                f"({error.strerror}): {len(held)} records are lost"
            ) from None
        raise UnavailableError(
            f"{path} was replaced, removed or changed during the run; "
            f"all {len(held)} records are in the run folder {beside}"
        )

    def _add(self, record: Record) -> None:
        self.records.append(record)
        self._of_cell.setdefault((record.cell_key, record.code_version), []).append(record)

    def settled(self, cell_key: str, code_version: str, *, retry_failed: bool = False) -> frozenset[int] | None:
        """Return the rounds of a cell that this code version has measured; None if the cell failed for good.

        Args:
            cell_key: the cell.
            code_version: of the code that would measure it.
            retry_failed: whether to measure a failed cell again.
        """
        mine = self._latest(cell_key, code_version)
        if not retry_failed and any(record.status != "ok" for record in mine):
            return None
        return frozenset(record.round for record in mine if record.status == "ok")

    def status(self, cell_key: str, code_version: str) -> Status | None:
        """Return the status of a cell: ``ok``, how it failed, or None if it was not tried."""
        mine = self._latest(cell_key, code_version)
        return next((record.status for record in mine if record.status != "ok"), "ok" if mine else None)

    def _latest(self, cell_key: str, code_version: str) -> list[Record]:
        return latest(self._of_cell.get((cell_key, code_version), []))

    def machines(self, kind: str) -> set[str]:
        """Return the names of the machines that measured records of a kind."""
        environments = read_environments(self.folder)
        used = {record.env for record in self.records if record.kind == kind and record.env in environments}
        return {machine_name(environments[str(env)]) for env in used}

    def add_maps(self, cell_key: str, code_version: str, maps: Sequence[KeptMap]) -> None:
        """Save the maps of a cell next to the records.

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
        """Save an environment in ``env.json`` and return its id.

        Raises:
            UnavailableError: the disk refuses it.
        """
        facts = _masked(environment)
        text = json.dumps(facts, sort_keys=True)
        env_id = hashlib.sha256(text.encode()).hexdigest()[:12]
        if env_id in self._written:
            return env_id
        self._environments[env_id] = facts
        try:
            self._write_environments(self.folder)
        except OSError as error:
            raise self._refused(error) from None
        self._written.add(env_id)
        return env_id

    def _write_environments(self, folder: Path) -> None:
        replace_file(folder / ENVIRONMENTS, (json.dumps(self._environments, indent=1, sort_keys=True) + "\n").encode())


def _line(record: Record) -> bytes:
    return record.model_dump_json(exclude_none=True).encode() + b"\n"


def _masked(value: Any) -> Any:
    """Return a value without secrets in its texts."""
    if isinstance(value, Mapping):
        return {name: _masked(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner) for inner in value]
    return masked(value) if isinstance(value, str) else value


def _open_locked(folder: Path) -> int:
    path = folder / RECORDS
    try:
        if (folder / COMPRESSED).exists() and not path.exists():
            raise UsageError(f"{folder / COMPRESSED} is a finished run; gunzip it to continue, or give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        # Not through a link, and not into a pipe, which would wait for a reader.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        reason = f"{RECORDS} is a link" if error.errno == errno.ELOOP else error.strerror
        raise UsageError(f"cannot write to {folder}: {reason}; give another --out") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise UsageError(f"cannot write to {folder}: {RECORDS} is not a file; give another --out")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise UsageError(f"another fpbench is writing to {folder}; wait for it or give another --out") from None
    return file
