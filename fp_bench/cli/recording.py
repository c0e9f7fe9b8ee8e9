"""What the measuring verbs share: a job writes into a run folder, and ends with a report and an exit code."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fp_bench.cli.front import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOTHING

if TYPE_CHECKING:
    from fp_bench.records.record import Record
    from fp_bench.records.store import RecordStore


def record(
    folder: Path,
    run: Callable[["RecordStore"], Iterable["Record"]],
    count_pending: Callable[["RecordStore"], int],
    keys: set[str],
    budget: float | None,
) -> list["Record"]:
    """Run a job into a run folder and return all its records of these cells.

    Args:
        folder: the run folder.
        run: measures what the store lacks.
        count_pending: how many records that is.
        keys: the cells of the plan.
        budget: seconds that the run was given, if any.
    """
    from fp_bench.cli.terminal import duration, say, show_progress
    from fp_bench.records.store import RecordStore, latest

    with RecordStore(folder) as store:
        if store.torn:
            say(f"note: the last line of {folder} was torn and is dropped; it is measured again")
        try:
            for _ in show_progress(run(store), count_pending(store)):
                pass
        except KeyboardInterrupt:
            say(f"interrupted: {len(store.records)} records are kept in {folder}; the same command resumes")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        if budget and (left := count_pending(store)):
            say(f"note: the budget of {duration(budget)} is spent: {left} records left; the same command goes on")
        return latest(record for record in store.records if record.cell_key in keys)


def exit_code(records: list["Record"], named: bool) -> int:
    """Return 3 when a cell failed, 4 when nothing was measured; a default method that is not here is only a row."""
    failed = [record for record in records if record.status != "ok" and (named or record.status != "unavailable")]
    if failed:
        return EXIT_FAILED
    return 0 if any(record.status == "ok" for record in records) else EXIT_NOTHING
