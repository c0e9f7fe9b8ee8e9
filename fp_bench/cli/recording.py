"""Shared by the measuring commands: a job takes devices, writes into a run folder, and returns an exit code."""

import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fp_bench.cli.front import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOTHING
from fp_bench.errors import UsageError
from fp_bench.jobs.openai.servers import servers

RUNS = Path("runs")
"""Folder of runs without --out."""

if TYPE_CHECKING:
    from fp_bench.jobs.places import Place
    from fp_bench.records.record import Record
    from fp_bench.records.store import RecordStore


@contextmanager
def open_places(
    devices: Sequence[int] | None, ray: str | None, workers: int | None = None, engine: str = "hf"
) -> Iterator[Sequence["Place"]]:
    """Reserve the requested devices until the context ends.

    Args:
        devices: numbers of GPUs of this machine.
        ray: a cluster's address instead.
        workers: processes that will share the devices, if a job has several per device.
        engine: the engine that runs models there.

    Raises:
        UsageError: contradictory devices, or devices that do not fit the engine.
        UnavailableError: missing devices.
    """
    if servers(engine) and (devices is not None or ray is not None):
        raise UsageError("--engine openai runs at its server; give neither --devices nor --ray")
    if engine != "hf" and devices is not None:
        raise UsageError(f"--engine {engine} runs on the first visible GPU; set CUDA_VISIBLE_DEVICES, not --devices")
    if ray is None:
        from fp_bench.jobs.places import places_here

        yield places_here(devices, most=workers or 1)
        return
    if devices is not None:
        given = ",".join(map(str, devices))
        raise UsageError(f"--devices {given} are GPUs of this machine, but --ray uses a cluster; give only one")
    from fp_bench.cli.terminal import say
    from fp_bench.jobs.cluster import ray_places
    from fp_bench.records.environment import machine_name

    with ray_places(ray, workers) as places:
        say(f"ray: {len(places)} of {machine_name(places[0].environment)}")
        yield places


def run_folder(verb: str, out: Path | None, resume: bool) -> Path:
    """Return the folder of a run: the named one, the newest of the command, or a new one.

    Args:
        verb: that measures.
        out: the named folder.
        resume: whether to continue the newest run.

    Raises:
        UsageError: there is no run to continue.
    """
    if out is not None:
        return out
    if resume:
        runs = sorted(path for path in RUNS.glob(f"{verb}-*") if path.is_dir())
        if not runs:
            raise UsageError(f"--resume: there is no {verb} run in {RUNS}/ yet; remove --resume, or give --out FOLDER")
        return max(runs, key=lambda run: run.stat().st_mtime_ns)
    stem = f"{verb}-{datetime.now():%Y-%m-%d-%H%M%S}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(RUNS / name for name in names if not (RUNS / name).exists())


def record(
    folder: Path,
    run: Callable[["RecordStore"], Iterable["Record"]],
    count_pending: Callable[["RecordStore"], int],
    keys: set[str],
    budget: float | None,
    quiet: bool = False,
) -> list["Record"]:
    """Run a job into a run folder and return all its records of these cells.

    Args:
        folder: the run folder.
        run: measures the missing records.
        count_pending: counts them.
        keys: the cells of the plan.
        budget: the run's time in seconds, if limited.
        quiet: whether to hide progress.
    """
    from fp_bench.cli.terminal import duration, say, show_progress
    from fp_bench.records.store import RecordStore, latest

    with RecordStore(folder) as store:
        if store.torn:
            say(f"note: the last line of {folder} is incomplete and is ignored; its cell is measured again")
        pending = count_pending(store)
        if not pending:
            say(f"note: nothing left to measure: {folder} is complete")
        try:
            with _ended_by_signals():
                for _ in show_progress(run(store), pending, quiet):
                    pass
        except KeyboardInterrupt as end:
            ended = end if isinstance(end, TerminatedError) else None
            say(
                f"{ended or 'interrupted'}: {_kept(folder)} records are kept in {folder}; "
                f"the same command resumes with --out {folder}"
            )
            raise typer.Exit(128 + ended.signal if ended else EXIT_INTERRUPTED) from None
        if budget and (left := count_pending(store)):
            say(
                f"note: the budget of {duration(budget)} is spent: {left} records left; "
                f"the same command continues with --out {folder}"
            )
        return latest(record for record in store.records if record.cell_key in keys)


class TerminatedError(KeyboardInterrupt):
    """A signal that ends the process like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.signal = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End on SIGTERM and SIGHUP like on Ctrl-C, with workers and temporary files. A second signal ends at once."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError(number)

    # Ignored signals (nohup) stay ignored; only the main thread can set handlers.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heard = [number for number, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    if threading.current_thread() is not threading.main_thread():
        heard = []
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            if signal.getsignal(number) is end:
                signal.signal(number, before[number])


def _kept(folder: Path) -> int:
    """Return the number of records on disk; an interrupt may come between writing one and counting it."""
    from fp_bench.records.reading import read_records

    try:
        return len(read_records(folder).records)
    except UsageError:
        return 0


def exit_code(records: list["Record"], named: bool) -> int:
    """Return 3 if a cell failed, 4 if nothing was measured; a missing default method is only a row."""
    failed = [record for record in records if record.status != "ok" and (named or record.status != "unavailable")]
    if failed:
        return EXIT_FAILED
    return 0 if any(record.status == "ok" for record in records) else EXIT_NOTHING
