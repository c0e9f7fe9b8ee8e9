"""Measures one method on one attention call: checks its output, then times it.

Untimed calls see other content, every timed call sees new numbers, and the output of one of them is compared with
the definition: a method that does less work when timed is `incorrect`. Nothing here schedules, writes or knows
of other methods.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.latency.changing import WRITES_INPUTS, ChangingCall, fingerprint
from fp_bench.jobs.latency.definition import (
    Truth,
    allowed,
    check_error,
    defined,
    relative_error,
    seen,
    skipped,
    tensors_of,
)
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.jobs.openai.servers import Load
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.records.record import DENSITY_OF, Cache, Clock

MIN_SAMPLES, MAX_SAMPLES = 3, 100
STALE_FACTOR, STALE_SHARE = 2.0, 0.01
"""A timed call's selection may miss this multiple of the checked one's share, plus this share: methods may draw
at random, but not select less when timed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """How much measuring a cell gets."""

    rounds: int = 5
    launches: int = 1
    """Times that the processes are started anew, each for its part of the rounds."""
    samples: int | None = None
    """Timed calls per round; None: as many as fit ``sample_seconds``, at least `MIN_SAMPLES`."""
    sample_seconds: float = 0.2
    warm_up_seconds: float = 0.1
    """Untimed calls at the start of each round, at least one."""
    checked_call_counts: bool = False
    """For calls that take minutes: the checked call is the only sample."""
    load: Load | None = None
    """Of a server; ``samples`` are then requests."""

    def spans(self) -> list[range]:
        """Return the rounds of each launch."""
        ends = [-(-self.rounds * launch // self.launches) for launch in range(self.launches + 1)]
        return [range(first, end) for first, end in pairwise(ends)]


@dataclass(frozen=True)
class Findings:
    """Quality of a selection and its output; names and units as in `Record`."""

    backend: str
    fallback: bool
    density: float
    density_of: str
    density_by_head: list[float]
    recall: float
    recall_by_head: list[float]
    rel_err: float
    rel_err_by_head: list[float]
    kernel_err: float
    tolerance: float | None
    rows_checked: int
    note: str | None
    skipped: float | None


@dataclass(frozen=True)
class Timing:
    """The times of one round; names and units as in `Record`."""

    timer: Clock
    cache: Cache
    samples_ms: list[float]
    median_ms: float
    select_ms: float | None
    attend_ms: float
    tflops: float


@dataclass(frozen=True)
class Checked:
    """A method with a correct output on a call, ready to be timed."""

    method: Method
    inputs: ChangingCall
    truth: Truth
    index: Selection | None
    """Selection for `attend`, made outside any timer or given by the input source; None for dense."""
    index_print: tuple[int, ...]
    """Of its tensors when it was made."""
    given: bool
    """Whether the input source gave the index; then only the attention is measured."""
    limit: float
    """Allowed relative error per head."""
    findings: Findings
    missed: float
    """Share of the hidden rows' attention that the whole operator's selection dropped."""
    first_select_ms: float
    first_ms: float
    """Wall-clock time of the first whole call on the original inputs."""
    selection: Selection | None = None
    """The whole operator's selection."""
    peak_bytes: int | None = None

    def operator(self) -> tuple[Tensor, Selection | None]:
        """Run the operator like a user; return the output and its selection."""
        return (self.attend(), self.index) if self.given else self.method.run(self.inputs.call)

    def select(self) -> Selection | None:
        """Run the selection alone."""
        return self.method.select(self.inputs.call)

    def attend(self) -> Tensor:
        """Run the attention alone."""
        return self.method.attend(self.inputs.call, self.index)

    @property
    def selects(self) -> bool:
        """Whether the operator has a selection to time."""
        return self.index is not None and not self.given


@torch.no_grad()
def check(
    method: Method,
    call: AttentionCall,
    truth: Truth,
    timer: WallClock,
    given: BlockIndex | None = None,
    *,
    first_is_other: bool = True,
) -> Checked:
    """Run a method once and compare its output with the float32 definition on the sampled rows.

    Args:
        method: the method.
        call: the attention call.
        truth: exact dense attention of the rows to check.
        timer: times this first call.
        given: a selection prescribed by the input source; a dense method ignores it.
        first_is_other: whether to run on other content first, so that a selection cached for each
            shape is measured on inputs for which it was not made.

    Raises:
        IncorrectError: the output is not attention over the method's selection, or the inputs were changed.
        UnsupportedError: the method does not define this call.
        UnavailableError: a package or device it needs is missing.
    """
    inputs = ChangingCall(call)
    with inputs.other():
        if reason := method.unsupported(inputs.call):
            raise UnsupportedError(reason)
        limit, declared = allowed(method, call.q.dtype)
        earlier: list[Tensor] = []
        """The output of a call on other content, and a copy of some rows."""
        if first_is_other and given is None:
            out, _ = timer.once(partial(method.run, inputs.call))[0]
            earlier = [out, _rows_of(out, call, truth.reported.rows)]
    _check_inputs(inputs)
    index, select_ms = timer.once(partial(method.select, inputs.call))
    prescribed = index is not None and given is not None
    if prescribed:
        index = given
    index_print = fingerprint(*tensors_of(seen(index, call, truth)))
    if prescribed:
        out, first_ms = timer.once(partial(method.attend, inputs.call, given))
        over: Selection | None = given
    else:
        (out, over), first_ms = timer.once(partial(method.run, inputs.call))
    found = _rows_of(out, call, truth.reported.rows)
    finite = bool(out.isfinite().all())
    overwritten = bool(earlier) and not torch.equal(_rows_of(earlier[0], call, truth.reported.rows), earlier[1])
    del out, earlier
    selection = seen(over, call, truth)
    _check_inputs(inputs)
    with inputs.other():
        backend, note = method.implementation(inputs.call, over), method.slower_because(inputs.call, over)
    findings = replace(
        _findings(method, inputs.call, found, selection, truth, limit),
        backend=backend,
        note=note,
        fallback=selection is None and method.name != "dense",
        tolerance=declared,
    )
    if not finite:
        raise IncorrectError("the output is not finite everywhere")
    if overwritten:
        raise IncorrectError("a later call overwrote its output")
    missed = float(truth.hidden.missed(truth.over(truth.hidden, selection)).mean())
    checked = Checked(
        method,
        inputs,
        truth,
        index,
        index_print,
        prescribed,
        limit,
        findings,
        missed,
        select_ms,
        first_ms,
        selection,
    )
    return replace(checked, peak_bytes=_peak_bytes(checked))


def _rows_of(out: Tensor, call: AttentionCall, rows: Tensor) -> Tensor:
    """Return a copy of some rows of an output; raise `IncorrectError` if it is no tensor of q's shape and dtype."""
    if type(out) is not Tensor:  # a subclass may compute when it is read, after the clock has stopped
        raise IncorrectError(f"output is a {type(out).__name__}; it must be a plain torch.Tensor")
    if out.shape != call.q.shape or out.dtype != call.q.dtype:
        raise IncorrectError(
            f"output is {out.dtype} {list(out.shape)}; it must equal q's: {call.q.dtype} {list(call.q.shape)}"
        )
    return out[:, rows].float()


def _check_inputs(inputs: ChangingCall) -> None:
    if not inputs.restore():
        raise IncorrectError(WRITES_INPUTS)


def _findings(
    method: Method, call: AttentionCall, found: Tensor, index: Selection | None, truth: Truth, limit: float
) -> Findings:
    sampled = truth.reported
    covered = sampled.dense if index is None else truth.over(sampled, index)
    of_method = defined(method, call, index, sampled.rows)
    density = torch.ones(covered.lse.shape[:2]) if index is None else index.density()
    recall = 1 - sampled.missed(covered)
    rel_err = relative_error(found, sampled.dense.out, dims=(1, 3))
    return Findings(
        backend="",
        fallback=False,
        density=density.mean().item(),
        density_of=DENSITY_OF,
        density_by_head=density.mean(0).tolist(),
        recall=recall.mean().item(),
        recall_by_head=recall.mean(0).tolist(),
        rel_err=relative_error(found, sampled.dense.out, dims=(0, 1, 2, 3)).item(),
        rel_err_by_head=rel_err.mean(0).tolist(),
        kernel_err=check_error(found, covered.out if of_method is None else of_method, limit),
        tolerance=None,
        rows_checked=len(sampled.rows),
        note=None,
        skipped=skipped(method, call, index),
    )


def _peak_bytes(checked: Checked) -> int | None:
    """Return the peak device memory of one call beyond its inputs, output included; None on the CPU."""
    if not checked.inputs.call.q.is_cuda:
        return None
    device = checked.inputs.call.q.device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    checked.operator()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@torch.no_grad()
def measure(checked: Checked, effort: Effort, timer: WallClock) -> Timing:
    """Time one round of a checked method: the whole operator, its selection, its attention.

    Raises:
        IncorrectError: a timed call gave a wrong output or changed its inputs.
    """
    call = checked.inputs.call
    over = seen(checked.index, call, checked.truth)

    def of_operator(value: tuple[Tensor, Selection | None]) -> _Given:
        rows = _rows_of(value[0], call, checked.truth.hidden.rows)
        return _Given(rows, seen(value[1], checked.inputs.call, checked.truth, copied=True))

    def of_selecting(value: Selection | None) -> _Given:
        return _Given(None, seen(value, checked.inputs.call, checked.truth, copied=True))

    def of_attending(out: Tensor) -> _Given:
        return _Given(_rows_of(out, call, checked.truth.hidden.rows), over)

    once = effort.checked_call_counts
    samples = [checked.first_ms] if once else _samples(checked, checked.operator, of_operator, effort, timer)
    select_ms, attend_ms = None, median(samples)
    if checked.selects:
        of_select = partial(_samples, checked, checked.select, of_selecting, effort, timer)
        select_ms = checked.first_select_ms if once else median(of_select())
        attend_ms = median(_samples(checked, checked.attend, of_attending, effort, timer))
    if fingerprint(*tensors_of(over)) != checked.index_print:
        raise IncorrectError("its attention writes into the given selection")
    flop = 4 * call.head_dim * computed_entries(call, over)
    return Timing(
        timer=timer.clock,
        cache=timer.cache,
        samples_ms=[round(sample, 5) for sample in samples],
        median_ms=median(samples),
        select_ms=select_ms,
        attend_ms=attend_ms,
        tflops=flop / attend_ms / 1e9,
    )


@dataclass(frozen=True)
class _Given:
    """A timed call's output, copied when its time ended."""

    rows: Tensor | None
    """Hidden rows of the output; None for a selection."""
    over: Selection | None


def _samples(
    checked: Checked, step: Callable[[], T], given: Callable[[T], _Given], effort: Effort, timer: WallClock
) -> list[float]:
    """Warm up on other content, take as many samples as the effort allows, and compare one with the definition.

    It is drawn at random, and a call on other content precedes it, so that a cached result does not help.
    """
    inputs, count = checked.inputs, 1
    if not effort.checked_call_counts:
        seconds = _warmed_up(inputs, step, effort, timer)
        count = effort.samples or min(MAX_SAMPLES, max(MIN_SAMPLES, int(effort.sample_seconds / seconds)))
    drawn = secrets.randbelow(count)
    kept: list[tuple[_Given, Tensor]] = []

    def before(number: int) -> None:
        if number == drawn > 0:
            with inputs.other():
                step()
        inputs.change()

    def after(number: int, value: T) -> None:
        if number == drawn:
            kept.append((given(value), inputs.masks))

    times = timer.samples(step, count, before, after)
    _check_inputs(inputs)
    _check_timed(checked, *kept[0])
    return times


def _warmed_up(inputs: ChangingCall, step: Callable[[], object], effort: Effort, timer: WallClock) -> float:
    """Call for some time, at least once; return the seconds per call."""
    with inputs.other():
        started, calls = perf_counter(), 0
        while not calls or perf_counter() - started < effort.warm_up_seconds:
            timer.once(step)
            calls += 1
        return (perf_counter() - started) / calls


def _check_timed(checked: Checked, given: _Given, masks: Tensor) -> None:
    """Raise IncorrectError if a timed output is not attention over its selection, or the selection covers less."""
    truth = checked.truth
    hidden = truth.hidden
    covered = truth.over(hidden, given.over, masks)
    missed = float(hidden.missed(covered).mean())
    if not missed <= STALE_FACTOR * max(checked.missed, 0.0) + STALE_SHARE:
        raise IncorrectError(
            f"where it is timed its selection misses {missed:.1%} of the attention, where it was checked "
            f"{checked.missed:.1%}"
        )
    if given.rows is None:
        return
    checked.inputs.show(masks)
    of_method = defined(checked.method, checked.inputs.call, given.over, hidden.rows)
    try:
        check_error(given.rows, covered.out if of_method is None else of_method, checked.limit)
    except IncorrectError as error:
        raise IncorrectError(f"of a timed call, {error}") from None


def computed_entries(call: AttentionCall, index: Selection | None) -> int:
    """Return the number of causal query-key pairs of all heads in a selection; None: dense."""
    if index is None:
        seen_by_first = call.kv_len - call.q_len + 1
        return call.batch * call.q_heads * call.q_len * (seen_by_first + call.kv_len) // 2
    return int(index.entries().sum())
