"""Finds the fastest prefill of a model within a limit of quality: which method, at which setting.

1. For each method and length, `search` finds the sparsest setting that meets the limit. Its trials are samples of the
   `fidelity` suite, answered by the accuracy job.
2. With ``per=layer`` a search over FlashPrefill with an alpha for each layer joins them; see `per_layer`.
3. The setting found is measured again on pieces of text that the search did not use. This loss is reported.
4. The latency job times the model's prefill with dense attention and with each setting found, in either engine. Only
   transformers gives distributions, so the search is there.

Everything is a record in one run folder, so an interrupted call resumes, and another limit reuses records.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path

from fp_bench.calibration.per_layer import Profile, factor_file, missing
from fp_bench.calibration.request import TuneRequest
from fp_bench.calibration.search import FIRST_LOOK, Settled, Trial, next_step, settings
from fp_bench.calibration.trials import Asked, Losses, answer, losses_of, trials
from fp_bench.calibration.tuned import Tuned
from fp_bench.errors import UsageError
from fp_bench.jobs.accuracy.job import kept_workers
from fp_bench.jobs.candidate import Candidate
from fp_bench.jobs.latency import job
from fp_bench.jobs.latency.plan import make_plan, prompt_name
from fp_bench.jobs.places import Place
from fp_bench.jobs.request import LatencyRequest
from fp_bench.jobs.schedule import Conduct
from fp_bench.jobs.values import engine_arguments
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models.load import model_facts
from fp_bench.models.vllm_engine import check_engine
from fp_bench.records.record import LatencyRecord, Record
from fp_bench.records.store import RecordStore
from fp_bench.sizes import format_length
from fp_bench.suites.fidelity import Fidelity

HELD_OUT = 8
"""Held-out samples, on which the setting found is measured again; a third of a short text, at least 2."""
LEAST_HELD_OUT = 2
ROUNDS = 3
"""In which the latency job times a prefill."""
DENSE = Spec("dense")


@dataclass(frozen=True)
class Search:
    """One method at one length."""

    method: str
    length: int
    candidates: Sequence[Spec]
    """Settings, the densest first."""
    most: int
    """Samples that a setting may take."""
    held_out: range
    """Numbers of the held-out samples."""
    problem: str | None = None
    """Why there is nothing to search."""

    @property
    def bisections(self) -> int:
        """The most settings that the search looks at."""
        return ceil(log2(len(self.candidates) + 1))

    def step(self, losses: Losses, limit: float) -> Trial | Settled:
        """Return the next measurement, or the result of the search."""
        in_order = {str(setting): _leading(losses[self.length, str(setting)]) for setting in self.candidates}
        return next_step(self.candidates, in_order, limit, self.most)


def profile(
    request: TuneRequest, asked: Profile, store: RecordStore, conduct: Conduct, places: Sequence[Place]
) -> Iterator[Record]:
    """Measure each layer alone, unless the run folder has it; yield each record after it is on disk."""
    if wanted := missing(asked, losses_of(request, store.records)):
        yield from answer(request, wanted, store, conduct, places)


def with_layers(request: TuneRequest, asked: Profile, folder: Path, records: Sequence[Record]) -> TuneRequest:
    """Return the request with FlashPrefill at a profile's factors, next to its other methods.

    Raises:
        UsageError: the profile is unfinished, or no layer may be sparse.
    """
    setting = factor_file(request, asked, records, folder)
    return request.model_copy(update={"methods": [*request.methods, setting]})


def searches(request: TuneRequest) -> list[Search]:
    """Return a search for each method and length.

    Raises:
        UsageError: an unknown method, one without a knob, a text too short, or a length beyond the model's positions.
        UnavailableError: the engine that will time the settings is not here.
    """
    check_engine(request.engine, request.dtype, request.model, engine_arguments(request.engine_args))
    samples, found = _samples(request), []
    for spec in request.methods:
        candidate = Candidate.of(spec, request.backend)
        knob = candidate.method.knob if candidate.method else None
        if candidate.method is not None and knob is None:
            raise UsageError(f"method {spec.name!r} has no parameter to tune; leave it out of --methods")
        # As in records, which do not write default values.
        rungs = (
            [Spec.parse(create_method(each, request.backend).label) for each in settings(spec, knob)] if knob else []
        )
        found += [Search(spec.name, length, rungs, *samples[length], candidate.problem) for length in request.lens]
    return found


def _samples(request: TuneRequest) -> Mapping[int, tuple[int, range]]:
    """Return for each length the most samples per setting, and the held-out ones."""
    tokenizer = model_facts(request.model).tokenizer  # a model that does not load is refused before there is a run
    if request.text is None:
        return {length: (request.samples, _after(request.samples, HELD_OUT)) for length in request.lens}
    text = Fidelity.of_file(request.text).text()
    tokens = len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    found = {}
    for length in request.lens:
        pieces = tokens // length
        held_out = min(HELD_OUT, max(LEAST_HELD_OUT, pieces // 3))
        if (least := FIRST_LOOK + LEAST_HELD_OUT) > pieces:
            raise UsageError(
                f"--text {request.text} has {tokens} tokens; {least} pieces of {format_length(length)} take "
                f"{least * length}: give a longer text"
            )
        most = min(request.samples, pieces - held_out)
        found[length] = most, _after(most, held_out)
    return found


def _after(most: int, held_out: int) -> range:
    return range(most, most + held_out)


def tune(
    request: TuneRequest, todo: Sequence[Search], store: RecordStore, conduct: Conduct, places: Sequence[Place]
) -> Iterator[Record]:
    """Search, measure again, time; yield each record after it is on disk. `results` reads the outcome.

    Args:
        request: what to tune.
        todo: its `searches`.
        store: the run folder; its records are not measured again.
        conduct: how the jobs behave.
        places: where.
    """
    with kept_workers() as kept:  # each of about twenty rounds would load the model again
        while wanted := list(_wanted(request, todo, losses_of(request, store.records))):
            before = len(store.records)
            yield from answer(request, wanted, store, conduct, places, kept)
            if len(store.records) == before:
                return  # the budget is spent
    losses = losses_of(request, store.records)
    for length in request.lens:
        asked = _timing(request, length, chosen(request, todo, losses, length))
        plan = places[0].run(make_plan, asked, places[0].machine)
        # vLLM runs on the first visible GPU.
        yield from job.run(plan, store, conduct, places if request.engine == "hf" else places[:1])


def _timing(request: TuneRequest, length: int, found: Sequence[Spec]) -> LatencyRequest:
    """Return what to time at a length: dense attention and the settings found, on the text that was searched."""
    return LatencyRequest(
        model=request.model,
        text=request.text,
        lens=[length],
        methods=[DENSE, *found],
        dtype=request.dtype,
        backend=request.backend,
        engine=request.engine,
        engine_args=request.engine_args,
    )


def _timed(request: TuneRequest, records: Iterable[Record]) -> list[LatencyRecord]:
    """Return the times of prefills in the engine that is asked for."""
    name = prompt_name(_timing(request, request.lens[0], ()))
    return [record for record in records if isinstance(record, LatencyRecord) and record.input == name]


def chosen(request: TuneRequest, todo: Iterable[Search], losses: Losses, length: int) -> list[Spec]:
    """Return the settings found at a length, in order of their searches."""
    steps = [search.step(losses, request.limit) for search in todo if search.length == length]
    return [step.setting for step in steps if isinstance(step, Settled) and step.setting is not None]


def pending(request: TuneRequest, todo: Sequence[Search], records: Sequence[Record]) -> int:
    """Return the largest number of records still to come; searches that decide early take fewer."""
    losses, found = losses_of(request, records), 0
    for search in todo:
        if isinstance(search.step(losses, request.limit), Trial):
            tried = sum(len(losses[search.length, str(setting)]) for setting in search.candidates)
            found += max(1, search.bisections * search.most - tried) + len(search.held_out)
    held_out = sum(len(each.numbers) for each in _wanted(request, todo, losses) if each.numbers.start)
    timed = {record.seq_len for record in _timed(request, records)}
    methods = Counter(search.length for search in todo)
    return found + held_out + sum(ROUNDS * (1 + methods[length]) for length in set(request.lens) - timed)


def answers(todo: Sequence[Search]) -> tuple[Mapping[int, int], Mapping[int, int]]:
    """Return the fewest and the most samples that the searches answer, by length."""
    fewest: Counter[int] = Counter()
    most: Counter[int] = Counter()
    for search in todo:
        fewest[search.length] += search.bisections * FIRST_LOOK
        most[search.length] += search.bisections * search.most + len(search.held_out)
    return fewest, most


def results(request: TuneRequest, todo: Sequence[Search], records: Sequence[Record]) -> list[Tuned]:
    """Return the result of each method and length, and of dense attention, from the records of a run.

    Args:
        request: what was tuned.
        todo: its `searches`.
        records: of its run folder.
    """
    losses, found = losses_of(request, records), []
    records = [*trials(request, records), *_timed(request, records)]
    for search in todo:
        step = search.step(losses, request.limit)
        if isinstance(step, Settled) and step.setting is not None:
            found.append(Tuned.of(search.method, search.length, step.setting, records, search.held_out))
        else:
            open_ = "the search is unfinished" if isinstance(step, Trial) else "no setting meets the limit"
            found.append(Tuned(search.method, search.length, None, search.problem or open_))
    return found + [Tuned.of(DENSE.name, length, DENSE, records, range(0)) for length in request.lens]


def _wanted(request: TuneRequest, todo: Iterable[Search], losses: Losses) -> Iterator[Asked]:
    """Yield the next measurement of each search; for a finished one the missing held-out samples."""
    for search in todo:
        step = search.step(losses, request.limit)
        if isinstance(step, Trial):
            yield Asked(step.setting, search.length, range(step.samples))
        elif step.setting and not losses[search.length, str(step.setting)].keys() >= set(search.held_out):
            yield Asked(step.setting, search.length, search.held_out)


def _leading(by_number: Mapping[int, float]) -> list[float]:
    """Return the losses of samples 0, 1, 2, ... without gaps."""
    found: list[float] = []
    while len(found) in by_number:
        found.append(by_number[len(found)])
    return found
