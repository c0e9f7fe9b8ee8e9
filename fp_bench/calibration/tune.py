"""Which method to run on a model, and at which setting: the fastest prefill whose quality stays within a limit.

1. For each method and length, `search` finds the sparsest setting that meets the limit. Its trials are samples of the
   `fidelity` suite, answered by the accuracy job.
2. The setting found is measured again on pieces of text that the search did not see: that loss is the one reported.
3. The latency job times the model's prefill with dense attention and with each setting found.

All of it is records in one run folder, so a broken-off call goes on, and another limit reuses what is there.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2

from fp_bench.calibration.request import TuneRequest
from fp_bench.calibration.search import FIRST_LOOK, Settled, Trial, next_step, settings
from fp_bench.calibration.tuned import Tuned, sample_number
from fp_bench.errors import UsageError
from fp_bench.jobs.accuracy import job as accuracy_job
from fp_bench.jobs.accuracy.plan import make_plan as accuracy_plan
from fp_bench.jobs.candidate import Candidate
from fp_bench.jobs.latency import job as latency_job
from fp_bench.jobs.latency.plan import make_plan as latency_plan
from fp_bench.jobs.places import Place
from fp_bench.jobs.request import AccuracyRequest, LatencyRequest
from fp_bench.jobs.schedule import Conduct
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models.load import model_facts
from fp_bench.records.record import AccuracyRecord, LatencyRecord, Record
from fp_bench.records.store import RecordStore
from fp_bench.sizes import format_length
from fp_bench.suites.fidelity import Fidelity

HELD_OUT = 8
"""Samples that the search does not see, on which the setting found is measured."""
DENSE = Spec("dense")


Losses = Mapping[tuple[int, str], Mapping[int, float]]
"""What was measured: length, setting -> number of the sample -> loss."""


@dataclass(frozen=True)
class Search:
    """One method at one length."""

    method: str
    length: int
    candidates: Sequence[Spec]
    """Settings, the densest first."""
    most: int
    """Samples that a setting may take; those after them are held out."""
    problem: str | None = None
    """Why there is nothing to search."""

    def step(self, losses: Losses, limit: float) -> Trial | Settled:
        """Return what to measure next, or the end of the search."""
        in_order = {str(setting): _leading(losses[self.length, str(setting)]) for setting in self.candidates}
        return next_step(self.candidates, in_order, limit, self.most)


@dataclass(frozen=True)
class Asked:
    """Samples of one setting at one length that are to be answered."""

    setting: Spec
    length: int
    numbers: range


def searches(request: TuneRequest) -> list[Search]:
    """Return a search for each method and length.

    Raises:
        UsageError: an unknown method, one that has no knob, a text too short, or a length beyond the model's positions.
    """
    most, found = _most_samples(request), []
    for spec in request.methods:
        candidate = Candidate.of(spec, request.backend)
        knob = candidate.method.knob if candidate.method else None
        if candidate.method is not None and knob is None:
            raise UsageError(f"method {spec.name!r} has no knob to turn; leave it out of --methods")
        # As records name them: a value that is the default is not written.
        rungs = (
            [Spec.parse(create_method(each, request.backend).label) for each in settings(spec, knob)] if knob else []
        )
        found += [Search(spec.name, length, rungs, most[length], candidate.problem) for length in request.lens]
    return found


def _most_samples(request: TuneRequest) -> Mapping[int, int]:
    """Return how many samples of each length a setting may take; as many pieces of the text follow as are held out."""
    most = dict.fromkeys(request.lens, request.samples)
    if request.text is None:
        return most
    text = Fidelity(Fidelity.Params(text=request.text)).text()
    tokens = len(model_facts(request.model).tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    for length in request.lens:
        pieces = tokens // length - HELD_OUT
        if pieces < FIRST_LOOK:
            raise UsageError(
                f"--text {request.text} has {tokens} tokens; {FIRST_LOOK + HELD_OUT} pieces of "
                f"{format_length(length)} take {(FIRST_LOOK + HELD_OUT) * length}: give a longer text"
            )
        most[length] = min(most[length], pieces)
    return most


def tune(
    request: TuneRequest, todo: Sequence[Search], store: RecordStore, conduct: Conduct, places: Sequence[Place]
) -> Iterator[Record]:
    """Search, measure again, time; yield each record after it is on disk. `results` reads what came of it.

    Args:
        request: what to tune.
        todo: its `searches`.
        store: the run folder; what it has is not measured again.
        conduct: how the jobs behave.
        places: where.
    """
    while wanted := list(_wanted(request, todo, _losses(request, store.records))):
        before = len(store.records)
        yield from _answer(request, wanted, store, conduct, places)
        if len(store.records) == before:
            return  # the budget is spent
    losses = _losses(request, store.records)
    for length in request.lens:
        methods = [DENSE, *chosen(request, todo, losses, length)]
        asked = LatencyRequest(
            model=request.model, lens=[length], methods=methods, dtype=request.dtype, backend=request.backend
        )
        plan = places[0].run(latency_plan, asked, places[0].machine)
        yield from latency_job.run(plan, store, conduct, places)


def chosen(request: TuneRequest, todo: Iterable[Search], losses: Losses, length: int) -> list[Spec]:
    """Return the settings found at a length, in order of their searches."""
    steps = [search.step(losses, request.limit) for search in todo if search.length == length]
    return [step.setting for step in steps if isinstance(step, Settled) and step.setting is not None]


def pending(request: TuneRequest, todo: Sequence[Search], records: Sequence[Record]) -> int:
    """Return how many records are still to come at most: searches that decide early take fewer."""
    losses, found = _losses(request, records), 0
    for search in todo:
        if isinstance(search.step(losses, request.limit), Trial):
            tried = sum(len(losses[search.length, str(setting)]) for setting in search.candidates)
            found += max(1, ceil(log2(len(search.candidates) + 1)) * search.most - tried) + HELD_OUT
    held_out = sum(len(each.numbers) for each in _wanted(request, todo, losses) if each.numbers.start)
    timed = {record.seq_len for record in records if isinstance(record, LatencyRecord)}
    return found + held_out + len(set(request.lens) - timed)


def results(request: TuneRequest, todo: Sequence[Search], records: Sequence[Record]) -> list[Tuned]:
    """Return what was found for each method and length, and dense attention, from the records of a run.

    Args:
        request: what was tuned.
        todo: its `searches`.
        records: of its run folder.
    """
    losses, found = _losses(request, records), []
    for search in todo:
        step, held_out = search.step(losses, request.limit), range(search.most, search.most + HELD_OUT)
        if isinstance(step, Settled) and step.setting is not None:
            found.append(Tuned.of(search.method, search.length, step.setting, records, held_out))
        else:
            open_ = "the search is unfinished" if isinstance(step, Trial) else "no setting meets the limit"
            found.append(Tuned(search.method, search.length, None, search.problem or open_))
    return found + [Tuned.of(DENSE.name, length, DENSE, records, range(0)) for length in request.lens]


def _wanted(request: TuneRequest, todo: Iterable[Search], losses: Losses) -> Iterator[Asked]:
    """Yield what each search needs next, of a settled one the held-out samples that are missing."""
    for search in todo:
        step = search.step(losses, request.limit)
        if isinstance(step, Trial):
            yield Asked(step.setting, search.length, range(step.samples))
        elif step.setting is not None:
            numbers = range(search.most, search.most + HELD_OUT)
            if not losses[search.length, str(step.setting)].keys() >= set(numbers):
                yield Asked(step.setting, search.length, numbers)


def _leading(by_number: Mapping[int, float]) -> list[float]:
    """Return the losses of samples 0, 1, 2, ... as far as they go."""
    found: list[float] = []
    while len(found) in by_number:
        found.append(by_number[len(found)])
    return found


def _losses(request: TuneRequest, records: Iterable[Record]) -> Losses:
    found: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for record in records:
        if isinstance(record, AccuracyRecord) and record.suite == "fidelity":
            found[record.seq_len, record.label][sample_number(record)] = request.loss(record)
    return found


def _answer(
    request: TuneRequest, wanted: Sequence[Asked], store: RecordStore, conduct: Conduct, places: Sequence[Place]
) -> Iterator[Record]:
    """Answer the samples that searches wait for, all of them in one run of the accuracy job."""
    asked = {(each.length, str(each.setting)): each.numbers for each in wanted}
    methods = list({str(each.setting): each.setting for each in wanted}.values())
    samples = max(each.numbers.stop for each in wanted)
    plan = places[0].run(accuracy_plan, _fidelity(request, methods, samples), places[0].machine)
    items = [item for item in plan.items if item.number in asked.get((item.stripe[2], item.label), ())]
    yield from accuracy_job.run(dataclasses.replace(plan, items=items), store, conduct, places)


def _fidelity(request: TuneRequest, methods: Sequence[Spec], samples: int) -> AccuracyRequest:
    return AccuracyRequest(
        suites=[_fidelity_of(request)],
        lens=request.lens,
        methods=methods,
        model=request.model,
        samples=samples,
        dtype=request.dtype,
        backend=request.backend,
        workers=request.workers,
    )


def _fidelity_of(request: TuneRequest) -> Spec:
    return Spec("fidelity", {"text": request.text} if request.text else {})
