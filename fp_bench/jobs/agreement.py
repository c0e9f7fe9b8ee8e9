"""One kernel for ``dense:impl=auto`` in a whole run: the first decision holds in every process, and is in the records.

A process that meets a new length times the kernels. Its record names the fastest (``dense_kernels``), and every later
step gets this decision, at all places, in restarted processes and in a resumed run. If two places decide at the same
time, the later result is discarded and its step is repeated with the decision of the other.

A plug-in decides for itself alone, because a slow kernel would make the dense attention of the run slow.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fp_bench.jobs.candidate import Candidate
from fp_bench.jobs.failures import Failure
from fp_bench.records.record import Fields, Record

T = TypeVar("T")
Decided = Mapping[str, str]
"""Kernels by kind of call; a kind for a plug-in alone begins with ``of LABEL: ``."""
TRIES = 4
"""Of a step: one, and more if other places decide on further kinds of calls during it."""


class Agreement:
    """The decisions of a run, shared by its places.

    Args:
        records: of the run folder, whose decisions hold.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._lock = threading.Lock()
        self._decided: dict[str, str] = {}
        for record in records:
            self._takes(record.dense_kernels or {})

    def reached(self, step: Callable[[Decided], T | Failure], fields: Callable[[T], Fields]) -> T | Failure:
        """Do a step until what it used agrees with the decisions of the run.

        Args:
            step: gets the decisions.
            fields: of its record.
        """
        for _ in range(TRIES):
            with self._lock:
                decided = dict(self._decided)
            found = step(decided)
            if isinstance(found, Failure) or self._takes(fields(found).get("dense_kernels") or {}):
                return found
        return Failure("error", "its process does not use the kernels of dense attention that the run has decided on")

    def _takes(self, used: Decided) -> bool:
        """Take new decisions, unless one contradicts those of the run."""
        with self._lock:
            if any(self._decided.get(kind, kernel) != kernel for kind, kernel in used.items()):
                return False
            self._decided.update(used)
            return True


def shared(decided: Decided) -> dict[str, str]:
    """Return the decisions of the run, without those of plug-ins."""
    return {kind: kernel for kind, kernel in decided.items() if not kind.startswith(PRIVATE)}


def shown(candidate: Candidate, decided: Decided) -> Decided:
    """Return what the process of a method must follow: the decisions of the run, and a plug-in's own."""
    if candidate.ours:
        return shared(decided)
    start = _of(candidate)
    return shared(decided) | {
        kind.removeprefix(start): kernel for kind, kernel in decided.items() if kind.startswith(start)
    }


def said(candidate: Candidate, used: Decided, decided: Decided) -> Decided:
    """Return what a process used, in the terms of the run: new decisions of a plug-in are its own."""
    if candidate.ours:
        return used
    start = _of(candidate)
    followed = {kind for kind in used if kind in decided and start + kind not in decided}
    return {kind if kind in followed else start + kind: kernel for kind, kernel in used.items()}


PRIVATE = "of "


def _of(candidate: Candidate) -> str:
    return f"{PRIVATE}{candidate.fields()['label']}: "
