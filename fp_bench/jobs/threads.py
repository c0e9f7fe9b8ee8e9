"""Several sources read at the same time."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def merged(sources: Sequence[Iterable[T]]) -> Iterator[T]:
    """Yield what the sources give as it comes, each read by a thread of its own; one alone is read in this one.

    Whoever stops listening has to make the sources end: their threads are not waited for.

    Raises:
        BaseException: what a source raised.
    """
    if len(sources) == 1:
        yield from sources[0]
        return
    found: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()

    def read(source: Iterable[T]) -> None:
        try:
            for each in source:
                found.put((each,))
            found.put(None)
        except BaseException as error:
            found.put(error)

    for source in sources:
        threading.Thread(target=read, args=(source,), daemon=True).start()
    reading = len(sources)
    while reading:
        given = found.get()
        if given is None:
            reading -= 1
        elif isinstance(given, BaseException):
            raise given
        else:
            yield given[0]
