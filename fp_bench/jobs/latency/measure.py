"""Measuring one method on one attention call: its output is checked, then it is timed.

Nothing here schedules, writes or knows of other methods.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.jobs.failures import IncorrectError
from fp_bench.kernels.attention.reference import AttentionRows, attention_rows, sample_rows
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.records.record import DENSITY_OF, Cache, Clock

TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 1e-4}
"""Largest relative error of a head over the sampled rows; a single row may have `ROW_SLACK` times it."""
ROW_SLACK = 5.0
MIN_SAMPLES, MAX_SAMPLES = 3, 100
FLUSH_BYTES = 1024 * 1024 * 1024
"""Written before each GPU sample: more than any L2 cache, so that every sample starts cold, and long enough (a quarter
of a millisecond on an H200) for the host to queue a short operator's kernels behind it."""

T = TypeVar("T")


class Timer(Protocol):
    """Times calls one by one, in milliseconds."""

    clock: Clock
    cache: Cache
    """What is done about the cache before a sample."""

    def once(self, call: Callable[[], T]) -> tuple[T, float]:
        """Return what ``call`` returns, finished, and the wall-clock time it took."""
        ...

    def samples(self, call: Callable[[], object], count: int) -> list[float]:
        """Return the time of each of ``count`` calls."""
        ...


class WallClock:
    """Wall clock, for the CPU."""

    clock: Clock = "wall_clock"
    cache: Cache = "as_left"

    def once(self, call: Callable[[], T]) -> tuple[T, float]:
        """Return what ``call`` returns and the time it took."""
        start = time.perf_counter()
        value = call()
        return value, (time.perf_counter() - start) * 1e3

    def samples(self, call: Callable[[], object], count: int) -> list[float]:
        """Return the time of each of ``count`` calls."""
        return [self.once(call)[1] for _ in range(count)]


class CudaEvents:
    """CUDA events around each call, with the L2 cache flushed before it.

    All calls are queued before the first is waited for. The flush hides the host's launches behind it, as the
    layers before an attention call do in a model.
    """

    clock: Clock = "cuda_event"
    cache: Cache = "cold"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def once(self, call: Callable[[], T]) -> tuple[T, float]:
        """Return what ``call`` returns, finished, and the wall-clock time it took."""
        torch.cuda.synchronize(self._device)
        start = time.perf_counter()
        value = call()
        torch.cuda.synchronize(self._device)
        return value, (time.perf_counter() - start) * 1e3

    def samples(self, call: Callable[[], object], count: int) -> list[float]:
        """Return the time of each of ``count`` calls."""
        spans = []
        for _ in range(count):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._flush.zero_()
            start.record()
            call()
            end.record()
            spans.append((start, end))
        torch.cuda.synchronize(self._device)
        return [float(start.elapsed_time(end)) for start, end in spans]


def timer_for(device: torch.device) -> Timer:
    """Return the timer of a device."""
    return CudaEvents(device) if device.type == "cuda" else WallClock()


@dataclass(frozen=True)
class Effort:
    """How much measuring a cell gets."""

    rounds: int = 5
    samples: int | None = None
    """Timed calls in a round; None takes as many as fit ``sample_seconds``, at least `MIN_SAMPLES`."""
    sample_seconds: float = 0.2
    warm_up_seconds: float = 0.1
    """Untimed calls at the start of each round, at least one."""
    checked_call_counts: bool = False
    """For calls of minutes: the call whose output is checked is the one sample, nothing is run twice."""


@dataclass(frozen=True)
class Truth:
    """Exact dense attention of some rows in float32: what recall and error are measured against."""

    rows: Tensor
    dense: AttentionRows


def dense_truth(call: AttentionCall, seed: int) -> Truth:
    """Return exact dense attention of sampled rows of a call."""
    rows = sample_rows(call.q_len, seed)
    return Truth(rows, attention_rows(call.q, call.k, call.v, scale=call.scale, rows=rows))


@dataclass(frozen=True)
class Findings:
    """What a selection and its output are worth; names and units as in `Record`."""

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
    """A method whose output on a call was right, ready to be timed."""

    method: Method
    call: AttentionCall
    index: Selection | None
    """Selected outside any timer, or given by the input source; None for dense."""
    given: bool
    """Whether the input source gave the index: then only the attention is the operator."""
    findings: Findings
    first_select_ms: float
    first_ms: float
    """Wall-clock time of the first whole call."""
    peak_bytes: int | None = None

    def operator(self) -> Tensor:
        """Run what a user would."""
        return self.attend() if self.given else self.method(self.call)

    def select(self) -> Selection | None:
        """Run the selection alone."""
        return self.method.select(self.call)

    def attend(self) -> Tensor:
        """Run the attention alone."""
        return self.method.attend(self.call, self.index)

    @property
    def selects(self) -> bool:
        """Whether the operator has a selection to time."""
        return self.index is not None and not self.given


@torch.no_grad()
def check(method: Method, call: AttentionCall, truth: Truth, timer: Timer, given: BlockIndex | None = None) -> Checked:
    """Run a method once and compare its output with the float32 definition on the sampled rows.

    Args:
        method: the method.
        call: the attention call.
        truth: exact dense attention of the rows to check.
        timer: times this first call.
        given: a selection prescribed by the input source; a dense method has no use for it.

    Raises:
        IncorrectError: the output is not attention over the method's selection.
        UnsupportedError: the method does not define this call.
        UnavailableError: a package or device it needs is missing.
    """
    if reason := method.unsupported(call):
        raise UnsupportedError(reason)
    index, select_ms = timer.once(partial(method.select, call))
    prescribed = index is not None and given is not None
    if prescribed:
        index = given
    out, first_ms = timer.once(partial(method.attend, call, index) if prescribed else partial(method, call))
    findings = _findings(method, call, index, out, truth)
    del out
    checked = Checked(method, call, index, prescribed, findings, select_ms, first_ms)
    return replace(checked, peak_bytes=_peak_bytes(checked))


def _findings(method: Method, call: AttentionCall, index: Selection | None, out: Tensor, truth: Truth) -> Findings:
    if out.shape != call.q.shape or out.dtype != call.q.dtype:
        raise IncorrectError(
            f"output is {out.dtype} {list(out.shape)}; it must be as q, {call.q.dtype} {list(call.q.shape)}"
        )
    found = out[:, truth.rows.to(out.device)].float()
    if index is None:
        covered, defined = truth.dense, truth.dense.out
        density = torch.ones(call.batch, call.q_heads)
    else:
        covered = attention_rows(call.q, call.k, call.v, scale=call.scale, rows=truth.rows, index=index)
        of_method = method.definition(call, index, truth.rows)
        defined = covered.out if of_method is None else of_method
        density = index.density()
    kernel_err = _check_output(found, defined, method.tolerance() or TOLERANCE[out.dtype])
    recall = (covered.lse - truth.dense.lse).double().exp().mean(-1)
    rel_err = _relative_error(found, truth.dense.out, dims=(1, 3))
    return Findings(
        backend=method.implementation(call, index),
        fallback=index is None and method.name != "dense",
        density=density.mean().item(),
        density_of=DENSITY_OF,
        density_by_head=density.mean(0).tolist(),
        recall=recall.mean().item(),
        recall_by_head=recall.mean(0).tolist(),
        rel_err=_relative_error(found, truth.dense.out, dims=(0, 1, 2, 3)).item(),
        rel_err_by_head=rel_err.mean(0).tolist(),
        kernel_err=kernel_err,
        rows_checked=len(truth.rows),
        note=method.slower_because(call, index),
        skipped=method.skipped(call, index),
    )


def _check_output(found: Tensor, defined: Tensor, tolerance: float) -> float:
    """Return the relative error over all rows; a head or a row out of its tolerance raises `IncorrectError`."""
    for what, dims, limit in (("head", (1, 3), tolerance), ("row", (3,), ROW_SLACK * tolerance)):
        worst = _relative_error(found, defined, dims=dims).max().item()
        # Written so that NaN fails too.
        if not worst <= limit:
            raise IncorrectError(
                f"a {what}'s relative error to the float32 definition is {worst:.2g}; the limit is {limit:.2g}"
            )
    return float(_relative_error(found, defined, dims=(0, 1, 2, 3)).item())


def _relative_error(found: Tensor, exact: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the norm of the difference over the norm of ``exact``, over ``dims``; 0 / 0 is 0."""
    difference: Tensor = torch.linalg.vector_norm((found - exact).double(), dim=dims)
    norm: Tensor = torch.linalg.vector_norm(exact.double(), dim=dims)
    return difference / norm.clamp_min(torch.finfo(torch.float64).tiny)


def _peak_bytes(checked: Checked) -> int | None:
    """Return the most device memory one call holds beyond its inputs, its output included; None on the CPU."""
    if not checked.call.q.is_cuda:
        return None
    device = checked.call.q.device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    checked.operator()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@torch.no_grad()
def measure(checked: Checked, effort: Effort, timer: Timer) -> Timing:
    """Time one round of a checked method: the whole operator, its selection alone, its attention alone."""
    if effort.checked_call_counts:
        samples = [checked.first_ms]
        select_ms = checked.first_select_ms if checked.selects else None
        attend_ms = timer.once(checked.attend)[1] if checked.selects else checked.first_ms
    else:
        samples = _samples(checked.operator, effort, timer)
        select_ms = median(_samples(checked.select, effort, timer)) if checked.selects else None
        attend_ms = median(_samples(checked.attend, effort, timer) if checked.selects else samples)
    flop = 4 * checked.call.head_dim * computed_entries(checked.call, checked.index)
    return Timing(
        timer=timer.clock,
        cache=timer.cache,
        samples_ms=[round(sample, 5) for sample in samples],
        median_ms=median(samples),
        select_ms=select_ms,
        attend_ms=attend_ms,
        tflops=flop / attend_ms / 1e9,
    )


def _samples(call: Callable[[], object], effort: Effort, timer: Timer) -> list[float]:
    """Warm up by time, then take as many samples as the effort allows."""
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < effort.warm_up_seconds:
        timer.once(call)
        calls += 1
    each = (time.perf_counter() - started) / calls
    count = effort.samples or min(MAX_SAMPLES, max(MIN_SAMPLES, int(effort.sample_seconds / each)))
    return timer.samples(call, count)


def computed_entries(call: AttentionCall, index: Selection | None) -> int:
    """Return how many causal query-key pairs of all heads a selection computes; None is dense."""
    if index is None:
        seen_by_first = call.kv_len - call.q_len + 1
        return call.batch * call.q_heads * call.q_len * (seen_by_first + call.kv_len) // 2
    return int(index.entries().sum())
