"""Trials of settings on a model: samples of the `fidelity` suite, answered by the accuracy job, kept as records."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fp_bench.calibration.request import TuneRequest
from fp_bench.jobs.accuracy import job
from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.places import Place
from fp_bench.jobs.request import AccuracyRequest
from fp_bench.jobs.schedule import Conduct
from fp_bench.methods.registry import Spec
from fp_bench.models.load import model_label
from fp_bench.records.record import AccuracyRecord, Record
from fp_bench.records.store import RecordStore
from fp_bench.suites.fidelity import Fidelity

Losses = Mapping[tuple[int, str], Mapping[int, float]]
"""Measured losses: length, setting -> number of the sample -> loss."""


@dataclass(frozen=True)
class Asked:
    """Samples of one setting at one length to answer."""

    setting: Spec
    length: int
    numbers: range


def sample_number(record: AccuracyRecord) -> int:
    """Return the number of a record's sample among those of its task and length."""
    return int(record.sample_id.rpartition("/")[2])


def trials(request: TuneRequest, records: Iterable[Record]) -> Iterator[AccuracyRecord]:
    """Yield the records of a request's trials among those of a run: of its model, on its text."""
    asked = model_label(request.model), Fidelity.of_file(request.text).facts(), request.dtype
    return (
        each
        for each in records
        if isinstance(each, AccuracyRecord)
        and each.suite == Fidelity.name
        and (each.model, each.suite_params, each.dtype) == asked
    )


def losses_of(request: TuneRequest, records: Iterable[Record]) -> Losses:
    """Return the loss of each trial, in the request's limited measure."""
    found: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for record in trials(request, records):
        found[record.seq_len, record.label][sample_number(record)] = request.loss(record)
    return found


def answer(
    request: TuneRequest,
    wanted: Sequence[Asked],
    store: RecordStore,
    conduct: Conduct,
    places: Sequence[Place],
    kept: job.Kept | None = None,
) -> Iterator[Record]:
    """Answer samples, all in one run of the accuracy job; yield each record after it is on disk."""
    asked = {(each.length, str(each.setting)): each.numbers for each in wanted}
    methods = list({str(each.setting): each.setting for each in wanted}.values())
    samples = max(each.numbers.stop for each in wanted)
    plan = places[0].run(make_plan, _fidelity(request, methods, samples), places[0].machine)
    items = [item for item in plan.items if item.number in asked.get((item.stripe[2], item.label), ())]
    yield from job.run(dataclasses.replace(plan, items=items), store, conduct, places, kept)


def _fidelity(request: TuneRequest, methods: Sequence[Spec], samples: int) -> AccuracyRequest:
    return AccuracyRequest(
        suites=[Spec("fidelity", {"text": request.text} if request.text else {})],
        lens=request.lens,
        methods=methods,
        model=request.model,
        samples=samples,
        dtype=request.dtype,
        backend=request.backend,
        workers=request.workers,
    )
