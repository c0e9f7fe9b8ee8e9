"""The latency job: cells are checked, then timed in interleaved rounds; each record is written at once."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fp_bench.errors import UsageError
from fp_bench.jobs.agreement import Decided
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.latency.plan import Cell, Group, Plan
from fp_bench.jobs.latency.worker import Found
from fp_bench.jobs.latency.workers import MethodWorkers
from fp_bench.jobs.places import Place
from fp_bench.jobs.schedule import DEFAULT, Conduct, Schedule, Task, written
from fp_bench.records.environment import machine_name
from fp_bench.records.kept_maps import KeptMap
from fp_bench.records.record import LatencyRecord
from fp_bench.records.store import RecordStore


def run(
    plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT, places: Sequence[Place] = ()
) -> Iterator[LatencyRecord]:
    """Measure the cells that the store lacks; yield each record after it is on disk.

    A failed cell is a record with its status and reason; the rest continues. After a budget,
    `count_pending` counts the rest.

    Args:
        plan: the cells to measure.
        store: the run folder.
        conduct: how to run.
        places: devices that share the work, one cell at a time each; none: that of the plan.

    Raises:
        UsageError: the store has times of another kind of machine, which are not comparable.
        UnavailableError: the disk refuses a record, or all places are lost.
    """
    if (plan.request.launches or 1) > 1 and not conduct.isolate:
        raise UsageError(f"--launches {plan.request.launches} starts processes anew, and --no-isolate has none")
    tasks = [Task(_Left(group, pending)) for group in plan.groups if (pending := _pending(group, store, conduct))]
    if not tasks:
        return
    places = places or [Place.of(plan.machine)]
    _check_machine(store, places)
    for found, environment in _Measuring(plan, tasks, conduct, store).run(places):
        if isinstance(found, _Maps):
            store.add_maps(found.cell.key, found.cell.asked["code_version"], found.maps)
        else:
            yield written(store, found, environment)


def _check_machine(store: RecordStore, places: Sequence[Place]) -> None:
    known = store.machines("latency")
    for name in (machine_name(place.environment) for place in places):
        if other := next((machine for machine in known if machine != name), None):
            raise UsageError(f"{store.folder} holds times of {other}, but this machine is {name}; give another --out")


def count_pending(plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT) -> int:
    """Return how many records `run` would write if nothing failed."""
    return sum(len(rounds) for group in plan.groups for rounds in _pending(group, store, conduct).values())


Pending = dict[Cell, list[int]]
"""Cells and their pending rounds."""


def _pending(group: Group, store: RecordStore, conduct: Conduct) -> Pending:
    pending = {}
    for cell in group.cells:
        done = store.settled(cell.key, cell.asked["code_version"], retry_failed=conduct.retry_failed)
        if done is not None and (rounds := [n for n in range(group.effort.rounds) if n not in done]):
            pending[cell] = rounds
    return pending


class _Maps(NamedTuple):
    """What a cell kept."""

    cell: Cell
    maps: Sequence[KeptMap]


class _Left(NamedTuple):
    """What is left of a group."""

    group: Group
    pending: Pending


class _Measuring(Schedule[_Left, MethodWorkers, _Maps | LatencyRecord]):
    """Each group is measured at one place."""

    def __init__(self, plan: Plan, tasks: Sequence[Task[_Left]], conduct: Conduct, store: RecordStore) -> None:
        super().__init__(tasks, conduct, [cell for group in plan.groups for cell in group.cells], store)
        self._plan = plan

    def open(self, place: Place, seat: int, threads: int | None) -> MethodWorkers:
        """Open the workers of a place."""
        del seat
        return place.open(MethodWorkers, self._plan.on(place.machine), self.conduct, threads)

    def do(self, task: Task[_Left], workers: MethodWorkers) -> Iterator[_Maps | LatencyRecord]:
        """Measure a group launch by launch, each by processes that were started for it."""
        group, pending = task.left
        spans = group.effort.spans() if self.conduct.isolate else [range(group.effort.rounds)]
        left = [span for span in spans if any(number in span for rounds in pending.values() for number in rounds)]
        for span in left:
            if span is not left[0]:
                workers.restart()
            yield from self._launch(task, workers, span)

    def _launch(
        self, task: Task[_Left], workers: MethodWorkers, span: Sequence[int]
    ) -> Iterator[_Maps | LatencyRecord]:
        """Check every cell with rounds in a span, then time those that passed, round by round in a shuffled order."""
        group, whole = task.left
        pending = {cell: rounds for cell, rounds in whole.items() if any(number in span for number in rounds)}
        hopeless = {cell: why for cell in pending if (why := self.why_not(cell, task)) is not None}
        if possible := [cell.label for cell in pending if cell not in hopeless]:
            workers.start(possible)
        ready: dict[Cell, Found] = {}

        def failed(cell: Cell, number: int, why: Failure) -> LatencyRecord:
            del whole[cell]
            self.learn(cell, why)
            return cell.failed(number, why)

        for cell in list(pending):
            if not self.in_time:
                return
            found = hopeless.get(cell) or self._checked(workers, cell, group)
            if isinstance(found, Failure):
                yield failed(cell, pending[cell][0], found)
            else:
                yield _Maps(cell, found.maps)
                ready[cell] = found
        for number in span:
            for cell in _shuffled([cell for cell in ready if number in whole.get(cell, ())], number):
                if not self.in_time:
                    return
                outcome = workers.measure(cell, group, ready[cell].fields["dense_kernels"] or {})
                if isinstance(outcome, Failure):
                    del ready[cell]
                    yield failed(cell, number, outcome)
                else:
                    whole[cell].remove(number)
                    record = cell.timed(number, ready[cell].fields | outcome)
                    if record.status != "ok":  # what it found is no record
                        del ready[cell], whole[cell]
                    yield record
        if ready:
            workers.release()

    def _checked(self, workers: MethodWorkers, cell: Cell, group: Group) -> Found | Failure:
        def check(decided: Decided) -> Found | Failure:
            return workers.check(cell, group, decided)

        return self.agreement.reached(check, lambda found: found.fields)


def _shuffled(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Return the cells in an order that differs between rounds and seeds, but not between runs."""
    order = list(cells)
    random.Random(f"{[cell.key for cell in cells]} {number}").shuffle(order)
    return order
