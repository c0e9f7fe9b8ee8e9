"""The accuracy job: every method answers every sample, and one writer stores each answer at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from fp_bench.jobs.accuracy.plan import Item, Plan, by_sample
from fp_bench.jobs.accuracy.worker import Stripe
from fp_bench.jobs.accuracy.workers import ModelWorkers
from fp_bench.jobs.agreement import Decided
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.places import Place, PlaceLostError
from fp_bench.jobs.schedule import DEFAULT, Conduct, Schedule, Task, written
from fp_bench.records.record import AccuracyRecord, Fields
from fp_bench.records.store import RecordStore

Dealt = dict[Stripe, list[int]]
"""Numbers of samples."""
Kept = dict[tuple[str, int, int | None], ModelWorkers]
"""Workers that have no more to do: by their request without methods and samples, their seat and number of threads."""


@contextmanager
def kept_workers() -> Iterator[Kept]:
    """Keep workers and their models from one run to the next, until the context ends."""
    kept: Kept = {}
    try:
        yield kept
    finally:
        for workers in kept.values():
            with suppress(PlaceLostError):
                workers.close()


def run(
    plan: Plan,
    store: RecordStore,
    conduct: Conduct = DEFAULT,
    places: Sequence[Place] = (),
    kept: Kept | None = None,
) -> Iterator[AccuracyRecord]:
    """Answer the samples that the store lacks; yield each record after it is on disk.

    Workers take samples in turn; all methods answer a sample before the next, so an interrupted run is paired. A
    failed answer is a record with its status and reason; the rest continues.

    Args:
        plan: the samples to answer.
        store: the run folder.
        conduct: how to run.
        places: devices of the workers; none: that of the plan.
        kept: workers of an earlier run at the same places; those that fit go on, and it gets those of this run.

    Raises:
        UnavailableError: the disk refuses a record, or all places are lost.
    """
    samples = list(by_sample(pending_items(plan, store, conduct)))
    if not samples:
        return
    places = places or [Place.of(plan.machine)]
    # One worker per process, because transformers replaces attention for the whole process.
    count = min(plan.request.workers or len(places), len(samples)) if conduct.isolate else 1
    dealt: list[Dealt] = [{} for _ in range(count)]
    for number, items in enumerate(samples):
        dealt[number % count].setdefault(items[0].stripe, []).append(items[0].number)
    tasks = [Task(items, seat=number % count) for number, items in enumerate(samples)]
    seats = [places[number % len(places)] for number in range(count)]
    for record, environment in _Answering(plan, dealt, tasks, conduct, store, kept).run(seats):
        yield written(store, record, environment)


def pending_items(plan: Plan, store: RecordStore, conduct: Conduct = DEFAULT) -> list[Item]:
    """Return the items that `run` would answer."""
    return [
        item
        for item in plan.items
        if store.settled(item.key, item.asked["code_version"], retry_failed=conduct.retry_failed) == frozenset()
    ]


class _Answering(Schedule[list[Item], ModelWorkers, AccuracyRecord]):
    """Each sample is answered at one place, by the methods in turn."""

    def __init__(
        self,
        plan: Plan,
        dealt: Sequence[Dealt],
        tasks: Sequence[Task[list[Item]]],
        conduct: Conduct,
        store: RecordStore,
        kept: Kept | None,
    ) -> None:
        super().__init__(tasks, conduct, plan.items, store)
        self._plan = plan
        self._dealt = dealt
        self._kept = kept
        self._asked = plan.request.pinned(methods=None, samples=None).command

    def open(self, place: Place, seat: int, threads: int | None) -> ModelWorkers:
        """Open the workers of a seat, which mostly answer the samples dealt to it."""
        if self._kept and (workers := self._kept.pop((self._asked, seat, threads), None)) is not None:
            workers.go_on(self._plan, self._dealt[seat])
            return workers
        return place.open(ModelWorkers, self._plan, place.machine, self.conduct, self._dealt[seat], threads)

    def keep(self, workers: ModelWorkers, seat: int, threads: int | None) -> bool:
        """Keep workers for the next run, if there may be one."""
        if self._kept is None:
            return False
        self._kept[self._asked, seat, threads] = workers
        return True

    def do(self, task: Task[list[Item]], workers: ModelWorkers) -> Iterator[AccuracyRecord]:
        """Answer a sample."""
        while task.left:
            item = task.left[0]
            found = self.why_not(item, task) or self._answer(workers, item)
            del task.left[0]
            if isinstance(found, Failure):
                self.learn(item, found)
                yield item.failed(found)
            else:
                yield item.answered(found)

    def _answer(self, workers: ModelWorkers, item: Item) -> Fields | Failure:
        def answer(decided: Decided) -> Fields | Failure:
            return workers.answer(item, decided)

        return self.agreement.reached(answer, lambda found: found)
