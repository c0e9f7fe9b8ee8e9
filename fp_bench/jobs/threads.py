"""Reads several sources at the same time."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 10.0
"""Time limit for threads to end, in seconds."""


def merged(sources: Sequence[Iterable[T]], stop: Callable[[], None] = lambda: None) -> Iterator[T]:
    """Yield the items of all sources as they come, one thread per source; a single source uses this thread.

    Args:
        sources: to read.
        stop: makes the sources end; always called at the end, before waiting for the threads.

    Raises:
        BaseException: the exception of a source.
    """
    threads: list[threading.Thread] = []
    try:
        if len(sources) == 1:
            yield from sources[0]
        else:
            yield from _read(sources, threads)
    finally:
        stop()
        until = monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))


def _read(sources: Sequence[Iterable[T]], threads: list[threading.Thread]) -> Iterator[T]:
    found: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()

    def read(source: Iterable[T]) -> None:
        try:
            for each in source:
                found.put((each,))
            found.put(None)
        except BaseException as error:
            found.put(error)

    for source in sources:
        threads.append(threading.Thread(target=read, args=(source,), daemon=True))
        threads[-1].start()
    reading = len(sources)
    while reading:
        given = found.get()
        if given is None:
            reading -= 1
        elif isinstance(given, BaseException):
            raise given
        else:
            yield given[0]
