"""The accuracy job: samples are answered by every method, each answer is a record, written at once by one writer."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import cast

from fp_bench.accuracy.plan import Item, Plan, by_sample
from fp_bench.accuracy.worker import Answered, Examinee, Stripe
from fp_bench.failures import Answer, Failure
from fp_bench.isolation import START_SECONDS, LocalWorker, Worker, WorkerHungError, WorkerLostError, WorkerProcess
from fp_bench.results.record import AccuracyRecord
from fp_bench.results.store import RecordStore
from fp_bench.sizes import format_length

TIMEOUT_SECONDS = 600.0
"""An answer may take this long when nothing else was asked for."""


@dataclass(frozen=True)
class Conduct:
    """How a run behaves; none of it changes a score."""

    timeout: float = TIMEOUT_SECONDS
    """Seconds that one answer may take."""
    budget: float | None = None
    """Seconds after which no further sample is started."""
    retry_failed: bool = False
    """Whether to try again what an earlier run could not answer."""
    isolate: bool = True
    """Whether the model runs in processes of its own."""


DEFAULT = Conduct()


def run(plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT) -> Iterator[AccuracyRecord]:
    """Answer what the store does not have yet; yield each record after it is on disk.

    Workers take samples in turn; all methods answer a sample before the next, so that a run cut short is paired. What
    cannot be answered is a record with its status and reason; the rest goes on.

    Raises:
        UnavailableError: the disk refuses a record.
    """
    pending = pending_items(plan, store, conduct)
    if not pending:
        return
    env = store.add_environment(plan.machine.environment())
    for item, found in _answers(plan, pending, conduct, _too_long(store)):
        record = item.failed(found) if isinstance(found, Failure) else item.answered(found)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        written = record.model_copy(update={"env": env, "time": time})
        store.append(written)
        yield written


def _answers(
    plan: Plan, pending: Sequence[Item], conduct: Conduct, limits: "Limits"
) -> Iterator[tuple[Item, Answered | Failure]]:
    for item in pending:
        if item.candidate.method is None:
            yield item, Failure("unavailable", item.candidate.problem or "it cannot be loaded")
    possible = [item for item in pending if item.candidate.method is not None]
    if possible:
        with _Room(plan, possible, conduct, limits) as room:
            yield from room.answers()


def pending_items(plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT) -> list[Item]:
    """Return the items that `run` would answer."""

    def is_pending(item: Item) -> bool:
        return store.settled(item.key, item.asked["code_version"], retry_failed=conduct.retry_failed) == frozenset()

    return [item for item in plan.items if is_pending(item)]


Limits = dict[tuple[str, str], int]
"""Label of a method and code version -> the shortest length at which it ran out of memory."""


def _too_long(store: RecordStore) -> Limits:
    limits: Limits = {}
    for record in store.records:
        if isinstance(record, AccuracyRecord) and store.status(record.cell_key, record.code_version) == "oom":
            key = (record.label, record.code_version)
            limits[key] = min(record.seq_len, limits.get(key, record.seq_len))
    return limits


class _Room:
    """The workers of a run, each in a thread of this process that hands it one item after the other."""

    def __init__(self, plan: Plan, items: Sequence[Item], conduct: Conduct, limits: Limits) -> None:
        self.plan = plan
        self.conduct = conduct
        self._limits = {} if conduct.retry_failed else limits
        self._deadline = None if conduct.budget is None else monotonic() + conduct.budget
        self._found: queue.Queue[tuple[Item, Answered | Failure] | BaseException | None] = queue.Queue()
        self._stopping = threading.Event()
        count = max(1, min(plan.request.workers, len(items)))
        samples = list(by_sample(items))
        self._desks = [_Desk(self, number, samples[number::count]) for number in range(count)]

    def __enter__(self) -> "_Room":
        for desk in self._desks:
            desk.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for desk in self._desks:
            desk.close()

    def answers(self) -> Iterator[tuple[Item, Answered | Failure]]:
        """Yield what the workers find, until all are done."""
        working = len(self._desks)
        while working:
            found = self._found.get()
            if found is None:
                working -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                yield found

    def goes_on(self) -> bool:
        """Return whether another sample may be started."""
        return not self._stopping.is_set() and (self._deadline is None or monotonic() < self._deadline)

    def hopeless(self, item: Item) -> Failure | None:
        """Return why an item is not even tried."""
        limit = self._limits.get((item.label, item.asked["code_version"]))
        if limit is not None and item.asked["seq_len"] > limit:
            return Failure("oom", f"not tried: it ran out of memory at {format_length(limit)} already")
        return None

    def report(self, item: Item, found: Answered | Failure) -> None:
        """Hand in what became of an item."""
        if isinstance(found, Failure) and found.status == "oom":
            key, length = (item.label, item.asked["code_version"]), item.asked["seq_len"]
            self._limits[key] = min(length, self._limits.get(key, length))
        self._found.put((item, found))

    def leave(self, error: BaseException | None) -> None:
        """Say that a desk is done, or what broke it."""
        self._found.put(error)


class _Desk(threading.Thread):
    """One worker and the samples it answers."""

    def __init__(self, room: _Room, number: int, samples: Sequence[list[Item]]) -> None:
        super().__init__(daemon=True)
        self._room = room
        self._number = number
        self._samples = samples
        self._worker: Worker | None = self._start_worker()
        self._loaded = False

    def run(self) -> None:
        """Answer the samples in order."""
        error: BaseException | None = None
        try:
            for items in self._samples:
                if not self._room.goes_on():
                    break
                for item in items:
                    found = self._room.hopeless(item) or self._answer(item)
                    if self._room.goes_on() or not isinstance(found, Failure):
                        self._room.report(item, found)
        except BaseException as broken:  # handed to the thread that waits for answers
            error = broken
        if error is not None:
            self._room.leave(error)
        self._room.leave(None)

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        if self._worker is not None:
            self._worker.close()

    def _start_worker(self) -> Worker:
        stripes: dict[Stripe, list[int]] = {}
        for items in self._samples:
            stripes.setdefault(items[0].stripe, []).append(items[0].number)
        make = WorkerProcess if self._room.conduct.isolate else LocalWorker
        return make(Examinee, self._room.plan.setup(stripes, self._number))

    def _answer(self, item: Item) -> Answered | Failure:
        if self._worker is None:
            self._worker, self._loaded = self._start_worker(), False
        if not self._loaded:
            # Loading is no part of an answer, and may well take longer than one.
            found = self._step("loading the model", START_SECONDS, "load")
            if isinstance(found, Failure):
                return found
            self._loaded = True
        answered = self._step("answering", self._room.conduct.timeout, "answer", item.stripe, item.number, item.label)
        assert answered is not None
        return answered

    def _step(self, doing: str, limit: float, name: str, *args: object) -> Answered | Failure | None:
        assert self._worker is not None
        try:
            answer = cast("Answer[Answered | None]", self._worker.call(name, *args, timeout=limit))
        except WorkerHungError as error:
            self._end()
            return Failure("timeout", f"{doing}: {error}; --timeout sets the limit")
        except WorkerLostError as error:
            self._end()
            return Failure("oom" if error.starved else "error", f"{doing}: {error}")
        if not answer.fit:
            self._end()
        return answer.value

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None
