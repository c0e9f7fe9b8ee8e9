"""The worker processes of a run at one place: started when needed, replaced when lost, ended with the run."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

from fp_bench.jobs.failures import Answer, Failure
from fp_bench.jobs.isolation import LOAD_SECONDS, Worker, WorkerHungError, WorkerLostError, WorkerProcess


class StoppedError(RuntimeError):
    """The run has ended, so no worker is started."""


@dataclass
class Post:
    """A worker and what it has."""

    worker: Worker
    loaded: bool = False
    """Whether it has imported its method and uses the device."""
    holds: str | None = None
    """Key of the cell whose inputs it holds."""
    launch: str = field(default_factory=lambda: uuid4().hex[:8])
    """Name of this process in records, because process ids repeat."""


class Workers(ABC):
    """Workers by name, each with its own object that has a method ``load``.

    Args:
        isolate: False works in this process, without isolation and timeouts.
    """

    def __init__(self, *, isolate: bool = True) -> None:
        self._make: type[Worker] = WorkerProcess if isolate else Worker
        self._posts: dict[str, Post] = {}
        self._refused: dict[str, Failure] = {}
        """Reason why an object does not load, by name."""
        self._lock = threading.Lock()
        self._closed = False

    @abstractmethod
    def made(self, name: str) -> tuple[Callable[..., Any], Any]:
        """Return the constructor of a worker's object, and its argument."""

    @abstractmethod
    def make_room(self, name: str) -> bool:
        """Make the other workers free memory that a worker needs; return whether they held any."""

    def close(self) -> None:
        """End all workers, from any thread; none is started afterwards."""
        with self._lock:
            self._closed = True
            left = list(self._posts.values())
            self._posts.clear()
        for post in left:
            post.worker.close()

    def start(self, names: Iterable[str]) -> None:
        """Start the missing workers, all at once, because importing torch takes seconds."""
        for name in names:
            self.post(name)

    def post(self, name: str) -> Post:
        """Return a worker; one lost while idle is replaced.

        Raises:
            StoppedError: after `close`.
        """
        with self._lock:
            if self._closed:
                raise StoppedError
            found = self._posts.get(name)
        if found is not None:
            if found.worker.is_alive:
                return found
            self.end(name)
        started = Post(self._make(*self.made(name)))
        with self._lock:
            if not self._closed:
                self._posts[name] = started
                return started
        started.worker.close()
        raise StoppedError

    def posts(self) -> list[tuple[str, Post]]:
        """Return the workers that are there."""
        with self._lock:
            return list(self._posts.items())

    def forget(self, name: str) -> None:
        """Note that a worker, if it exists, holds nothing."""
        with self._lock:
            if name in self._posts:
                self._posts[name].holds = None

    def end(self, name: str) -> None:
        """End a worker."""
        with self._lock:
            post = self._posts.pop(name, None)
        if post is not None:
            post.worker.close()

    def restart(self) -> None:
        """End the workers that are there; each is started anew when it is needed."""
        for name, _ in self.posts():
            self.end(name)

    def load(self, name: str, limit: float) -> Failure | None:
        """Load the object of a worker; a failed load is not tried again in this run."""
        if name in self._refused:
            return self._refused[name]
        found = self.step(name, "loading", "load", limit=limit)
        if isinstance(found, Failure) and found.status == "oom" and self.make_room(name):
            found = self.step(name, "loading", "load", limit=limit)
        if isinstance(found, Failure):
            self._refused[name] = found
            return found
        with self._lock:
            if name in self._posts:
                self._posts[name].loaded = True
        return None

    def step(
        self, name: str, doing: str, call: str, *args: Any, limit: float, tick: Callable[[], None] | None = None
    ) -> Any:
        """Call a method of a worker's object; return its value or its failure.

        Args:
            name: of the worker.
            doing: name of the step in a reason.
            call: the method, which returns an `Answer`.
            *args: its arguments.
            limit: time limit in seconds.
            tick: as in `Worker.call`.

        Raises:
            StoppedError: after `close`.
        """
        try:
            # In the place of one that ended while it had nothing to do is one that has loaded nothing.
            if call != "load" and not self.post(name).loaded and (failed := self.load(name, LOAD_SECONDS)):
                return failed
            answer = cast("Answer[Any]", self.post(name).worker.call(call, *args, timeout=limit, tick=tick))
        except (WorkerHungError, WorkerLostError) as error:
            self.end(name)
            if self._closed:
                raise StoppedError from None
            if isinstance(error, WorkerLostError):
                return Failure("oom" if error.starved else "error", f"{doing}: {error}")
            advice = "" if call == "load" else "; --timeout sets the limit"
            return Failure("timeout", f"{doing}: {error}{advice}")
        if not answer.fit:
            self.end(name)
        return answer.value
