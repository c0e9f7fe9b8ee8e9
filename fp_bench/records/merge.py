"""Merges runs of one machine."""

from collections.abc import Sequence
from pathlib import Path

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.records.environment import machine_name
from fp_bench.records.files import replace_file
from fp_bench.records.kept_maps import FOLDER as MAPS
from fp_bench.records.reading import RECORDS, read_environments, read_records
from fp_bench.records.record import Record
from fp_bench.records.store import RecordStore


def merge(folders: Sequence[Path], out: Path) -> tuple[int, int]:
    """Write the records of several run folders into a new one; if two have a round, the one measured first stays.

    A measured round counts before a failed one.

    Returns:
        The numbers of records written, and of those omitted because another run has the same.

    Raises:
        UsageError: a folder that is not a run, runs of different machines, or an ``out`` with records.
        UnavailableError: the disk refuses.
    """
    if (out / RECORDS).exists():
        raise UsageError(f"{out} already holds {RECORDS}; give another --out")
    readings = [read_records(folder).records for folder in folders]
    environments = {key: value for folder in folders for key, value in read_environments(folder).items()}
    _check_same_machine(folders, readings, environments)
    everything = sorted((record for records in readings for record in records), key=lambda record: record.time or "")
    kept: dict[tuple[str, str, int], Record] = {}
    for record in everything:
        identity = (record.cell_key, record.code_version, record.round)
        if identity not in kept or (kept[identity].status != "ok" and record.status == "ok"):
            kept[identity] = record
    with RecordStore(out) as store:
        for environment in environments.values():
            store.add_environment(environment)
        # In order of writing, so that the newest code of a cell stays the newest.
        for record in sorted(kept.values(), key=lambda record: record.time or ""):
            store.take(record)
    _copy_maps(folders, out)
    return len(kept), len(everything) - len(kept)


def _check_same_machine(
    folders: Sequence[Path], readings: Sequence[Sequence[Record]], environments: dict[str, dict[str, object]]
) -> None:
    first: dict[str, Path] = {}
    for folder, records in zip(folders, readings, strict=True):
        for env in {record.env for record in records if record.env in environments}:
            first.setdefault(machine_name(environments[str(env)]), folder)
    if len(first) > 1:
        (one, folder), (other, other_folder), *_ = first.items()
        raise UsageError(
            f"{folder} was measured on {one} and {other_folder} on {other}; only runs of one machine are merged"
        )


def _copy_maps(folders: Sequence[Path], out: Path) -> None:
    try:
        for folder in folders:
            for path in sorted((folder / MAPS).glob("*.npz")):
                if not (target := out / MAPS / path.name).exists():
                    target.parent.mkdir(exist_ok=True)
                    replace_file(target, path.read_bytes())
    except OSError as error:
        raise UnavailableError(f"cannot write to {out}: {error.strerror}") from None
