"""A running job of either kind: one queue of tasks, done at several places until it is empty or the run ends."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Generic, TypeVar

from fp_bench.errors import UnavailableError
from fp_bench.jobs.agreement import Agreement
from fp_bench.jobs.candidate import Asked
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.isolation import TICK_SECONDS
from fp_bench.jobs.machine import threads_for
from fp_bench.jobs.places import Place, PlaceLostError
from fp_bench.jobs.threads import merged
from fp_bench.jobs.workers import StoppedError, Workers
from fp_bench.records.record import Record
from fp_bench.records.store import RecordStore
from fp_bench.sizes import format_length

T = TypeVar("T")
W = TypeVar("W", bound=Workers)
F = TypeVar("F")
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Conduct:
    """How a run behaves, without effect on its numbers."""

    timeout: float | None = None
    """Seconds that one step (a check, a round, an answer) may take; None lets the job decide."""
    budget: float | None = None
    """Seconds after which nothing new is started."""
    retry_failed: bool = False
    """Whether to try failed items of an earlier run again."""
    isolate: bool = True
    """Whether methods run in their own processes."""


DEFAULT = Conduct()


@dataclass
class Task(Generic[T]):
    """Work for one place, one step after the other; finished steps are removed."""

    left: T
    seat: int | None = None
    """Whose it is by preference."""
    losses: int = 0
    """Number of places lost in a row during it."""


class Schedule(ABC, Generic[T, W, F]):
    """The queue of a run and knowledge shared by its places; a job defines how to do a task.

    Args:
        tasks: in order.
        conduct: of the run.
        tried: items of an earlier run that may have run out of memory.
        store: the run folder.
    """

    def __init__(self, tasks: Iterable[Task[T]], conduct: Conduct, tried: Iterable[Asked], store: RecordStore) -> None:
        self.conduct = conduct
        self.agreement = Agreement(store.records)
        """On the kernels of dense attention."""
        self._queue = deque(tasks)
        self._deadline = None if conduct.budget is None else monotonic() + conduct.budget
        self._changed = threading.Condition()
        self._in_hand = 0
        self._stopped = threading.Event()
        self._workers: list[W] = []
        self._lost: PlaceLostError | None = None
        self._too_long: dict[str, int] = {}
        """Label of a method -> the shortest length at which it ran out of memory."""
        if not conduct.retry_failed:
            for unit in tried:
                if store.status(unit.key, unit.asked["code_version"]) == "oom":
                    self.learn(unit, Failure("oom", ""))

    @abstractmethod
    def open(self, place: Place, seat: int, threads: int | None) -> W:
        """Open the workers of a seat at its place; None: torch's default number of threads."""

    @abstractmethod
    def do(self, task: Task[T], workers: W) -> Iterator[F]:
        """Do a task; each step is removed before its result is yielded."""

    def keep(self, workers: W, seat: int, threads: int | None) -> bool:
        """Return whether someone else closes the workers of a seat that has no more to do."""
        del workers, seat, threads
        return False

    def run(self, seats: Sequence[Place]) -> Iterator[tuple[F, Mapping[str, Any]]]:
        """Do all tasks; yield each result as it comes, with the facts of its place.

        Args:
            seats: the places that take tasks in turn; several may be at one place.

        Raises:
            UnavailableError: all places are lost before the end.
        """
        sharing = [_neighbours(place, seats) for place in seats]
        yield from merged([self._at(place, seat, sharing[seat]) for seat, place in enumerate(seats)], self._stop)
        if self._queue and self.in_time:
            raise UnavailableError(f"every device is lost, the last one: {self._lost}; the same command continues")

    @property
    def in_time(self) -> bool:
        """Whether the budget is not spent."""
        return self._deadline is None or monotonic() <= self._deadline

    def why_not(self, unit: Asked, task: Task[T]) -> Failure | None:
        """Return why an item is not tried."""
        if unit.candidate.method is None and unit.candidate.server is None:
            return Failure("unavailable", unit.candidate.problem or "it cannot be loaded")
        if task.losses > 1:
            return Failure("error", f"the device was lost, and so was the next one: {self._lost}")
        limit = self._too_long.get(unit.label)
        if limit is not None and unit.asked["seq_len"] > limit:
            return Failure("oom", f"not tried: it already ran out of memory at {format_length(limit)}")
        return None

    def learn(self, unit: Asked, why: Failure) -> None:
        """Remember a method that ran out of memory."""
        if why.status == "oom":
            label, length = unit.label, unit.asked["seq_len"]
            self._too_long[label] = min(length, self._too_long.get(label, length))

    def _at(self, place: Place, seat: int, sharing: int) -> Iterator[tuple[F, Mapping[str, Any]]]:
        """Do one task after the other at a place, until none is left or the place is lost for good."""
        workers: W | None = None
        threads: int | None = None
        environment = place.environment
        while (task := self._take(seat)) is not None:
            try:
                if workers is None:
                    threads = place.run(threads_for, sharing) if sharing > 1 else None
                    environment = {**place.environment, "cpu_threads": threads} if threads else place.environment
                    workers = self.open(place, seat, threads)
                    self._workers.append(workers)
                    if self._stopped.is_set():  # maybe before these were among those to close
                        workers.close()
                for found in self.do(task, workers):
                    task.losses = 0
                    yield found, environment
                self._done()
            except StoppedError:
                return
            except PlaceLostError as lost:
                self._lost, workers = lost, None
                task.losses += 1
                self._done(task)
                try:
                    place.replace(lost)
                except PlaceLostError:
                    return
        if workers is not None and not self._stopped.is_set() and self.keep(workers, seat, threads):
            self._workers.remove(workers)

    def _take(self, seat: int) -> Task[T] | None:
        """Return the next task; if there is none, wait for tasks of a lost place."""
        with self._changed:
            while not self._queue and self._in_hand and self._goes_on:
                self._changed.wait(TICK_SECONDS)
            if not self._queue or not self._goes_on:
                return None
            task = next((task for task in self._queue if task.seat in (None, seat)), self._queue[0])
            self._queue.remove(task)
            self._in_hand += 1
            return task

    def _done(self, left: Task[T] | None = None) -> None:
        with self._changed:
            self._in_hand -= 1
            if left is not None:
                self._queue.appendleft(left)
            self._changed.notify_all()

    @property
    def _goes_on(self) -> bool:
        return not self._stopped.is_set() and self.in_time

    def _stop(self) -> None:
        self._stopped.set()
        for workers in list(self._workers):
            with suppress(PlaceLostError):
                workers.close()


def _neighbours(place: Place, seats: Sequence[Place]) -> int:
    """Return the number of seats that share the cores of a place."""
    return sum(other is place or not (other.own_cores or place.own_cores) for other in seats)


def written(store: RecordStore, record: R, environment: Mapping[str, Any]) -> R:
    """Write a record with its environment and time; return it as stored.

    Raises:
        UnavailableError: the disk refuses it.
    """
    env, time = store.add_environment(environment), datetime.now(UTC).isoformat(timespec="seconds")
    whole = record.model_copy(update={"env": env, "time": time})
    store.append(whole)
    return whole
