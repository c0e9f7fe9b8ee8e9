"""The latency job: cells are checked, then timed in interleaved rounds; each record is written at once."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from fp_bench.failures import Failure
from fp_bench.latency.crew import Crew
from fp_bench.latency.plan import Cell, Group, Plan
from fp_bench.latency.worker import Found
from fp_bench.results.record import LatencyRecord
from fp_bench.results.store import RecordStore
from fp_bench.sizes import format_length


@dataclass(frozen=True)
class Conduct:
    """How a run behaves; none of it changes a number."""

    timeout: float | None = None
    """Seconds that one step of a cell (its check, or a round) may take; None lets the plan decide."""
    budget: float | None = None
    """Seconds after which no further step is started."""
    retry_failed: bool = False
    """Whether to try again what an earlier run could not measure."""
    isolate: bool = True
    """Whether methods run in processes of their own."""


DEFAULT = Conduct()


def run(plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT) -> Iterator[LatencyRecord]:
    """Measure what the store does not have yet; yield each record after it is on disk.

    A cell that cannot be measured is a record with its status and reason; the rest goes on. What a budget left out is
    what `count_pending` still counts afterwards.

    Raises:
        UnavailableError: the disk refuses a record.
    """
    if not count_pending(plan, store, conduct):
        return
    env = store.add_environment(plan.machine.environment())
    with Crew(plan, timeout=conduct.timeout, isolate=conduct.isolate) as crew:
        measuring = _Run(plan, store, conduct, crew)
        for group in plan.groups:
            for record in measuring.group(group):
                written = record.model_copy(update={"env": env, "time": _now()})
                store.append(written)
                yield written


def count_pending(plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT) -> int:
    """Return how many records `run` would write if nothing failed."""
    return sum(len(rounds) for group in plan.groups for rounds in _pending(group, store, conduct).values())


Pending = dict[Cell, list[int]]
"""Cells with the rounds that are still to be measured."""


def _pending(group: Group, store: RecordStore, conduct: Conduct) -> Pending:
    pending = {}
    for cell in group.cells:
        done = store.settled(cell.key, cell.asked["code_version"], retry_failed=conduct.retry_failed)
        if done is not None and (rounds := [n for n in range(group.effort.rounds) if n not in done]):
            pending[cell] = rounds
    return pending


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Run:
    """One run under way: when its budget ends, and from which length on a method is out of memory."""

    def __init__(self, plan: Plan, store: RecordStore, conduct: Conduct, crew: Crew) -> None:
        self._store = store
        self._conduct = conduct
        self._crew = crew
        self._deadline = None if conduct.budget is None else monotonic() + conduct.budget
        self._too_long: dict[str, int] = {}
        """Label of a method -> the shortest length at which it ran out of memory."""
        if not conduct.retry_failed:
            for cell in (cell for group in plan.groups for cell in group.cells):
                if store.status(cell.key, cell.asked["code_version"]) == "oom":
                    self._ran_out(cell)

    def group(self, group: Group) -> Iterator[LatencyRecord]:
        """Check every pending cell, then time those that passed, round by round in a shuffled order."""
        pending = _pending(group, self._store, self._conduct)
        hopeless = {cell: why for cell in pending if (why := self._hopeless(cell)) is not None}
        if not self._out_of_time:
            self._crew.start(cell for cell in pending if cell not in hopeless)
        ready: dict[Cell, Found] = {}
        for cell, rounds in pending.items():
            if self._out_of_time:
                return
            found = hopeless.get(cell) or self._crew.check(cell, group)
            if isinstance(found, Failure):
                yield self._failed(cell, rounds[0], found)
            else:
                self._store.add_maps(cell.key, cell.asked["code_version"], found.maps)
                ready[cell] = found
        for number in range(group.effort.rounds):
            for cell in _shuffled([cell for cell in ready if number in pending[cell]], number):
                if self._out_of_time:
                    return
                outcome = self._crew.measure(cell, group)
                if isinstance(outcome, Failure):
                    del ready[cell]
                    yield self._failed(cell, number, outcome)
                else:
                    of_cell = ready[cell]
                    yield cell.timed(number, of_cell.findings, of_cell.peak_bytes, *outcome)
        self._crew.release()

    @property
    def _out_of_time(self) -> bool:
        return self._deadline is not None and monotonic() > self._deadline

    def _hopeless(self, cell: Cell) -> Failure | None:
        """Return why a cell is not even tried."""
        if cell.candidate.method is None:
            return Failure("unavailable", cell.candidate.problem or "it cannot be loaded")
        limit = self._too_long.get(cell.asked["label"])
        if limit is not None and cell.asked["seq_len"] > limit:
            return Failure("oom", f"not tried: it ran out of memory at {format_length(limit)} already")
        return None

    def _failed(self, cell: Cell, number: int, why: Failure) -> LatencyRecord:
        if why.status == "oom":
            self._ran_out(cell)
        return cell.failed(number, why)

    def _ran_out(self, cell: Cell) -> None:
        label, length = cell.asked["label"], cell.asked["seq_len"]
        self._too_long[label] = min(length, self._too_long.get(label, length))


def _shuffled(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Return the cells in an order that differs between rounds and seeds, and is the same in every run."""
    order = list(cells)
    random.Random(f"{[cell.key for cell in cells]} {number}").shuffle(order)
    return order
