"""The clocks that calls are timed with."""

from collections.abc import Callable
from time import perf_counter
from typing import Protocol, TypeVar

import torch

from fp_bench.records.record import Cache, Clock

FLUSH_BYTES = 1024 * 1024 * 1024
"""Written before each GPU sample: more than any L2 cache, so that every sample starts cold, and long enough (a quarter
of a millisecond on an H200) for the host to queue a short operator's kernels behind it."""

T = TypeVar("T")
# Taken before a plug-in is imported, as perf_counter above: these stay the clock, whatever it makes of theirs.
Event, synchronize = torch.cuda.Event, torch.cuda.synchronize


def _nothing(*_: object) -> None:
    pass


class Timer(Protocol):
    """Times calls one by one, in milliseconds."""

    clock: Clock
    cache: Cache
    """What is done about the cache before a sample."""

    def once(self, call: Callable[[], T]) -> tuple[T, float]:
        """Return what ``call`` returns, finished, and the wall-clock time it took."""
        ...

    def samples(
        self,
        call: Callable[[], T],
        count: int,
        before: Callable[[int], object] = _nothing,
        after: Callable[[int, T], object] = _nothing,
    ) -> list[float]:
        """Return the time of each of ``count`` calls.

        Args:
            call: what to time.
            count: how often.
            before: called before each, outside its time, with its number.
            after: the same at once when its time has ended, with what it returned.
        """
        ...


class WallClock:
    """Wall clock, for the CPU."""

    clock: Clock = "wall_clock"
    cache: Cache = "as_left"

    def once(self, call: Callable[[], T]) -> tuple[T, float]:
        """Return what ``call`` returns and the time it took."""
        start = perf_counter()
        value = call()
        return value, (perf_counter() - start) * 1e3

    def samples(
        self,
        call: Callable[[], T],
        count: int,
        before: Callable[[int], object] = _nothing,
        after: Callable[[int, T], object] = _nothing,
    ) -> list[float]:
        """Return the time of each of ``count`` calls."""
        times = []
        for number in range(count):
            before(number)
            value, milliseconds = self.once(call)
            after(number, value)
            del value  # the next call has its memory
            times.append(milliseconds)
        return times


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
        synchronize(self._device)
        start = perf_counter()
        value = call()
        synchronize(self._device)
        return value, (perf_counter() - start) * 1e3

    def samples(
        self,
        call: Callable[[], T],
        count: int,
        before: Callable[[int], object] = _nothing,
        after: Callable[[int, T], object] = _nothing,
    ) -> list[float]:
        """Return the time of each of ``count`` calls."""
        spans = []
        for number in range(count):
            before(number)
            start, end = (Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._flush.zero_()
            start.record()
            value = call()
            end.record()
            after(number, value)
            del value  # the next call has its memory
            spans.append((start, end))
        synchronize(self._device)
        return [float(start.elapsed_time(end)) for start, end in spans]


def timer_for(device: torch.device) -> Timer:
    """Return the timer of a device."""
    return CudaEvents(device) if device.type == "cuda" else WallClock()
