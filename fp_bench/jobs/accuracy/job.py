"""The accuracy job: samples are answered by every method, each answer is a record, written at once by one writer."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NamedTuple, cast

from fp_bench.errors import UnavailableError
from fp_bench.jobs.accuracy.plan import Item, Plan, by_sample
from fp_bench.jobs.accuracy.worker import Answered, Examinee, Stripe
from fp_bench.jobs.accuracy.worker_engine import EngineExaminee
from fp_bench.jobs.failures import Answer, Failure
from fp_bench.jobs.isolation import LOAD_SECONDS, LocalWorker, Worker, WorkerHungError, WorkerLostError, WorkerProcess
from fp_bench.jobs.places import Here, Place, PlaceLostError
from fp_bench.jobs.threads import merged
from fp_bench.records.record import AccuracyRecord
from fp_bench.records.store import RecordStore
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


def run(
    plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT, places: Sequence[Place] = ()
) -> Iterator[AccuracyRecord]:
    """Answer what the store does not have yet; yield each record after it is on disk.

    Workers take samples in turn; all methods answer a sample before the next, so that a run cut short is paired. What
    cannot be answered is a record with its status and reason; the rest goes on.

    Args:
        plan: what to answer.
        store: where to.
        conduct: how.
        places: the devices that the workers take turns over; none is the plan's.

    Raises:
        UnavailableError: the disk refuses a record, or all places are lost.
    """
    pending = pending_items(plan, store, conduct)
    if not pending:
        return
    for item, found, environment in _answers(
        plan, pending, conduct, _out_of_memory(plan, store, conduct), places or [Here.of(plan.machine)]
    ):
        record = item.failed(found) if isinstance(found, Failure) else item.answered(found)
        env, time = store.add_environment(environment), datetime.now(UTC).isoformat(timespec="seconds")
        written = record.model_copy(update={"env": env, "time": time})
        store.append(written)
        yield written


class _Found(NamedTuple):
    """What became of an item, and on what."""

    item: Item
    outcome: Answered | Failure
    environment: Mapping[str, Any]


def _answers(
    plan: Plan, pending: Sequence[Item], conduct: Conduct, too_large: Sequence[Item], places: Sequence[Place]
) -> Iterator[_Found]:
    for item in pending:
        if item.candidate.method is None:
            why = Failure("unavailable", item.candidate.problem or "it cannot be loaded")
            yield _Found(item, why, places[0].environment)
    possible = [item for item in pending if item.candidate.method is not None]
    if possible:
        room = _Room(plan, possible, conduct, places)
        for item in too_large:
            room.ran_out(item)
        try:
            yield from room.answers()
        finally:
            room.close()
        room.check_done()


def pending_items(plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT) -> list[Item]:
    """Return the items that `run` would answer."""

    def is_pending(item: Item) -> bool:
        return store.settled(item.key, item.asked["code_version"], retry_failed=conduct.retry_failed) == frozenset()

    return [item for item in plan.items if is_pending(item)]


def _out_of_memory(plan: Plan, store: RecordStore, conduct: Conduct) -> list[Item]:
    """Return the items that an earlier run had no memory for and that are not to be tried again."""
    if conduct.retry_failed:
        return []
    return [item for item in plan.items if store.status(item.key, item.asked["code_version"]) == "oom"]


class _Room:
    """The workers of a run, and what they share."""

    def __init__(self, plan: Plan, items: Sequence[Item], conduct: Conduct, places: Sequence[Place]) -> None:
        self.plan = plan
        self.conduct = conduct
        self.left: deque[list[Item]] = deque()
        """Samples of workers whose place was lost for good."""
        self.lost: PlaceLostError | None = None
        self._limits: dict[tuple[str, str], int] = {}
        """Label of a method and code version -> the shortest length at which it ran out of memory."""
        self._deadline = None if conduct.budget is None else monotonic() + conduct.budget
        self._stopping = threading.Event()
        # In one process there is one worker: transformers loads and swaps attention for the whole process.
        asked = (plan.request.workers or len(places)) if conduct.isolate else 1
        count = min(asked, len(items))
        samples = list(by_sample(items))
        self.desks = [_Desk(self, places[number % len(places)], samples[number::count]) for number in range(count)]

    def answers(self) -> Iterator["_Found"]:
        """Answer at all desks; those that run out of samples come back for what one that is lost later has left."""
        desks = self.desks
        while desks:
            yield from merged([desk.answers() for desk in desks])
            desks = [desk for desk in desks if not desk.lost] if self.left and self.goes_on() else []

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        self._stopping.set()
        for desk in self.desks:
            desk.close()

    def check_done(self) -> None:
        """Raise UnavailableError when places were lost before everything was answered."""
        if self.left and self.goes_on_in_time():
            raise UnavailableError(f"every device is lost, the last one: {self.lost}; the same command goes on")

    def goes_on(self) -> bool:
        """Return whether another sample may be started."""
        return not self._stopping.is_set() and self.goes_on_in_time()

    def goes_on_in_time(self) -> bool:
        """Return whether there is time left for another sample."""
        return self._deadline is None or monotonic() < self._deadline

    def hopeless(self, item: Item) -> Failure | None:
        """Return why an item is not even tried."""
        limit = self._limits.get((item.label, item.asked["code_version"]))
        if limit is not None and item.asked["seq_len"] > limit:
            return Failure("oom", f"not tried: it ran out of memory at {format_length(limit)} already")
        return None

    def ran_out(self, item: Item) -> None:
        """Remember that an item's method is out of memory."""
        key, length = (item.label, item.asked["code_version"]), item.asked["seq_len"]
        self._limits[key] = min(length, self._limits.get(key, length))


class _Desk:
    """One worker and the samples it answers."""

    def __init__(self, room: _Room, place: Place, samples: Sequence[list[Item]]) -> None:
        self._room = room
        self._place = place
        self._samples = deque(samples)
        self._worker: Worker | None = None
        self._loaded = False
        self.lost = False
        """Whether its place was lost for good."""

    def answers(self) -> Iterator[_Found]:
        """Answer the samples in order, then those that another worker had to leave."""
        while self._room.goes_on() and (items := self._next()):
            for item in items:
                try:
                    outcome = self._room.hopeless(item) or self._answer(item)
                except PlaceLostError as lost:
                    self.lost, self._room.lost = True, lost
                    self._room.left += [items[items.index(item) :], *self._samples]
                    return
                if isinstance(outcome, Failure) and outcome.status == "oom":
                    self._room.ran_out(item)
                if self._room.goes_on() or not isinstance(outcome, Failure):
                    yield _Found(item, outcome, self._place.environment)

    def close(self) -> None:
        """End the worker, whatever it is doing."""
        if self._worker is not None:
            with suppress(PlaceLostError):
                self._worker.close()

    def _next(self) -> list[Item] | None:
        """Take the next sample."""
        for samples in (self._samples, self._room.left):
            with suppress(IndexError):
                return samples.popleft()
        return None

    def _answer(self, item: Item) -> Answered | Failure:
        """Answer an item; where the place is lost meanwhile, once more at another.

        Raises:
            PlaceLostError: there is no other.
        """
        for _ in range(2):
            try:
                return self._try(item)
            except PlaceLostError as lost:
                self._worker = None
                self._place.replace(lost)
                reason = f"the device was lost, and another one after it: {lost}"
        return Failure("error", reason)

    def _try(self, item: Item) -> Answered | Failure:
        if self._worker is None:
            self._worker, self._loaded = self._start_worker(item), False
        if not self._loaded:
            # Loading is no part of an answer, and may well take longer than one.
            found = self._step("loading the model", LOAD_SECONDS, "load")
            if isinstance(found, Failure):
                return found
            self._loaded = True
        answered = self._step("answering", self._room.conduct.timeout, "answer", item.stripe, item.number, item.label)
        assert answered is not None
        return answered

    def _start_worker(self, first: Item) -> Worker:
        stripes: dict[Stripe, list[int]] = {first.stripe: [first.number]}
        for items in self._samples:
            stripes.setdefault(items[0].stripe, []).append(items[0].number)
        make: Callable[..., Worker] = WorkerProcess if self._room.conduct.isolate else LocalWorker
        examinee = EngineExaminee if self._room.plan.request.engine == "vllm" else Examinee
        return self._place.open(make, examinee, self._room.plan.setup(stripes, self._place.machine))

    def _step(self, doing: str, limit: float, name: str, *args: object) -> Answered | Failure | None:
        assert self._worker is not None
        try:
            answer = cast("Answer[Answered | None]", self._worker.call(name, *args, timeout=limit))
        except WorkerHungError as error:
            self._end()
            advice = "; --timeout sets the limit" if name == "answer" else ""
            return Failure("timeout", f"{doing}: {error}{advice}")
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
