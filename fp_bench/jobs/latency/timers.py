"""Clocks for timing calls."""

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

import torch

from fp_bench.records.record import Cache, Clock

FLUSH_BYTES = 1024 * 1024 * 1024
"""Written before each GPU sample: more than any L2 cache, so that every sample starts cold, and long enough (a quarter
of a millisecond on an H200) for the host to queue a short operator's kernels behind it."""

T = TypeVar("T")
# Saved before a plug-in is imported, like perf_counter above, so that patching has no effect.
Event, synchronize = torch.cuda.Event, torch.cuda.synchronize


def _nothing(*_: object) -> None:
    pass


class WallClock:
    """Times calls one by one, in milliseconds: wall clock, for the CPU."""

    clock: Clock = "wall_clock"
    cache: Cache = "as_left"
    """State of the cache before a sample."""

    def once(self, call: Callable[[], T]) -> tuple[T, float]:
        """Return the finished result of ``call`` and its wall-clock time."""
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
        """Return the time of each of ``count`` calls.

        Args:
            call: what to time.
            count: how often.
            before: called before each call, untimed, with its number.
            after: called as soon as its time has ended, with its result.
        """
        times = []
        for number in range(count):
            before(number)
            value, milliseconds = self.once(call)
            after(number, value)
            del value  # the next call has its memory
            times.append(milliseconds)
        return times


class CudaEvents(WallClock):
    """CUDA events around each call, with the L2 cache flushed before it.

    All calls are queued before the first wait. The flush hides the host's launches, as the
    earlier layers do in a model.
    """

    clock: Clock = "cuda_event"
    cache: Cache = "cold"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def once(self, call: Callable[[], T]) -> tuple[T, float]:
        """Return the finished result of ``call`` and its wall-clock time."""

        def finished() -> T:
            value = call()
            synchronize(self._device)
            return value

        synchronize(self._device)
        return super().once(finished)

    def samples(
        self,
        call: Callable[[], T],
        count: int,
        before: Callable[[int], object] = _nothing,
        after: Callable[[int, T], object] = _nothing,
    ) -> list[float]:
        """Return the time of each of ``count`` calls; arguments as in `WallClock`."""
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


def timer_for(device: torch.device) -> WallClock:
    """Return the timer of a device."""
    return CudaEvents(device) if device.type == "cuda" else WallClock()
