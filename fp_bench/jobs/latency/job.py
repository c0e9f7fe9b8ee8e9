"""The latency job: cells are checked, then timed in interleaved rounds; each record is written at once."""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.latency.crew import Crew
from fp_bench.jobs.latency.plan import Cell, Group, Plan
from fp_bench.jobs.latency.ttft import PrefillFound
from fp_bench.jobs.latency.worker import Found
from fp_bench.jobs.places import Here, Place, PlaceLostError
from fp_bench.jobs.threads import merged
from fp_bench.records.environment import machine_name
from fp_bench.records.kept_maps import KeptMap
from fp_bench.records.record import LatencyRecord
from fp_bench.records.store import RecordStore
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


def run(
    plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT, places: Sequence[Place] = ()
) -> Iterator[LatencyRecord]:
    """Measure what the store does not have yet; yield each record after it is on disk.

    A cell that cannot be measured is a record with its status and reason; the rest goes on. What a budget left out is
    what `count_pending` still counts afterwards.

    Args:
        plan: what to measure.
        store: where to.
        conduct: how.
        places: the devices that share the work, each measuring one cell at a time; none is the plan's.

    Raises:
        UsageError: the store has times of another kind of machine: their ratios to these would mean nothing.
        UnavailableError: the disk refuses a record, or all places are lost.
    """
    if not count_pending(plan, store, conduct):
        return
    places = places or [Here.of(plan.machine)]
    _check_machine(store, places)
    work = _Work(plan, store, conduct)
    try:
        for found in work.everywhere(places):
            if isinstance(found, _Maps):
                store.add_maps(found.cell.key, found.cell.asked["code_version"], found.maps)
                continue
            env = store.add_environment(found.environment)
            written = found.record.model_copy(update={"env": env, "time": _now()})
            store.append(written)
            yield written
    finally:
        work.close()
    work.check_done()


def _check_machine(store: RecordStore, places: Sequence[Place]) -> None:
    known = store.machines("latency")
    for name in (machine_name(place.environment) for place in places):
        if other := next((machine for machine in known if machine != name), None):
            raise UsageError(f"{store.folder} holds times of {other}, and this is {name}; give another --out")


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


@dataclass(frozen=True)
class _Maps:
    """What a cell kept."""

    cell: Cell
    maps: list[KeptMap]


@dataclass(frozen=True)
class _Measured:
    """A record, and what it was measured on."""

    record: LatencyRecord
    environment: Mapping[str, Any]


@dataclass
class _Task:
    """What is left of a group."""

    group: Group
    pending: Pending
    losses: int = 0
    """Places that were lost while they measured it."""


class _Work:
    """One run under way: what is left, when its budget ends, from which length on a method is out of memory."""

    def __init__(self, plan: Plan, store: RecordStore, conduct: Conduct) -> None:
        self._plan = plan
        self._conduct = conduct
        self._deadline = None if conduct.budget is None else monotonic() + conduct.budget
        self._tasks = deque(
            _Task(group, pending) for group in plan.groups if (pending := _pending(group, store, conduct))
        )
        self._crews: list[Crew] = []
        self._lost: PlaceLostError | None = None
        self._gone: list[Place] = []
        """Places that were lost and not replaced."""
        self._too_long: dict[str, int] = {}
        """Label of a method -> the shortest length at which it ran out of memory."""
        if not conduct.retry_failed:
            for cell in (cell for group in plan.groups for cell in group.cells):
                if store.status(cell.key, cell.asked["code_version"]) == "oom":
                    self._ran_out(cell)

    def everywhere(self, places: Sequence[Place]) -> Iterator[_Maps | _Measured]:
        """Measure at all places; those that run out of groups come back for what one that is lost later has left."""
        while places and self._tasks and not self._out_of_time:
            yield from merged([self.at(place) for place in places])
            places = [place for place in places if not any(place is gone for gone in self._gone)]

    def at(self, place: Place) -> Iterator[_Maps | _Measured]:
        """Measure one group after the other at a place, until none is left or it is lost and not to be replaced."""
        crew = self._crew(place)
        while self._tasks and not self._out_of_time:
            task = self._tasks.popleft()
            try:
                for found in self._task(task, crew):
                    yield _Measured(found, place.environment) if isinstance(found, LatencyRecord) else found
            except PlaceLostError as lost:
                self._lost = lost
                task.losses += 1
                self._tasks.append(task)
                try:
                    place.replace(lost)
                    crew = self._crew(place)
                except PlaceLostError:
                    self._gone.append(place)
                    return

    def close(self) -> None:
        """End the processes of all places, whatever they are doing."""
        for crew in self._crews:
            with suppress(PlaceLostError):
                crew.close()

    def check_done(self) -> None:
        """Raise UnavailableError when places were lost before everything was measured."""
        if self._tasks and not self._out_of_time:
            raise UnavailableError(f"every device is lost, the last one: {self._lost}; the same command goes on")

    def _crew(self, place: Place) -> Crew:
        plan, conduct = self._plan.on(place.machine), self._conduct
        self._crews.append(place.open(Crew, plan, timeout=conduct.timeout, isolate=conduct.isolate))
        return self._crews[-1]

    def _task(self, task: _Task, crew: Crew) -> Iterator[_Maps | LatencyRecord]:
        """Check every pending cell, then time those that passed, round by round in a shuffled order."""
        group, pending = task.group, task.pending
        hopeless = {cell: why for cell in pending if (why := self._hopeless(cell, task)) is not None}
        if possible := [cell for cell in pending if cell not in hopeless]:
            crew.start(possible)
        ready: dict[Cell, Found | PrefillFound] = {}
        for cell in list(pending):
            if self._out_of_time:
                return
            found = hopeless.get(cell) or crew.check(cell, group)
            if isinstance(found, Failure):
                yield self._failed(cell, pending.pop(cell)[0], found)
            else:
                yield _Maps(cell, found.maps)
                ready[cell] = found
        for number in range(group.effort.rounds):
            for cell in _shuffled([cell for cell in ready if number in pending[cell]], number):
                if self._out_of_time:
                    return
                outcome = crew.measure(cell, group)
                if isinstance(outcome, Failure):
                    del ready[cell], pending[cell]
                    yield self._failed(cell, number, outcome)
                else:
                    timing, seen = outcome
                    of_cell = asdict(ready[cell].findings) | {"peak_bytes": ready[cell].peak_bytes}
                    pending[cell].remove(number)
                    yield cell.timed(number, of_cell | asdict(timing) | seen)
        if ready:
            crew.release()

    @property
    def _out_of_time(self) -> bool:
        return self._deadline is not None and monotonic() > self._deadline

    def _hopeless(self, cell: Cell, task: _Task) -> Failure | None:
        """Return why a cell is not even tried."""
        if cell.candidate.method is None:
            return Failure("unavailable", cell.candidate.problem or "it cannot be loaded")
        if task.losses > 1:
            return Failure("error", f"the device was lost, and another one after it: {self._lost}")
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
