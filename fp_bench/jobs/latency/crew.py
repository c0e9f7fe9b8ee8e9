"""The worker processes of a run: one a method, one at work at a time, and replaced when one is lost."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import uuid4

import torch

from fp_bench.jobs.failures import Answer, Failure
from fp_bench.jobs.isolation import (
    LOAD_SECONDS,
    START_SECONDS,
    LocalWorker,
    Worker,
    WorkerHungError,
    WorkerLostError,
    WorkerProcess,
)
from fp_bench.jobs.latency.measure import Timing
from fp_bench.jobs.latency.noise import Watch
from fp_bench.jobs.latency.plan import Cell, Group, Plan
from fp_bench.jobs.latency.ttft import ModelHand, PrefillFound, PrefillTiming
from fp_bench.jobs.latency.ttft_engine import EngineHand
from fp_bench.jobs.latency.worker import Found, Hand, Setup

T = TypeVar("T")


@dataclass
class _Post:
    """A worker, and whose inputs it holds."""

    worker: Worker
    loaded: bool = False
    """Whether its method is imported, and so the device in use."""
    holds: str | None = None
    """Key of that cell."""
    launch: str = field(default_factory=lambda: uuid4().hex[:8])
    """Names this process in records, where ids of processes come again."""


class Crew:
    """Has cells checked and timed, each method in its own process.

    The processes stay for the whole run, so that what a method compiled or tuned is paid once. Each holds the inputs of
    its own cell between its turns, unless those of all would fill the memory (`Group.keep_inputs`).

    Args:
        plan: the run.
        timeout: seconds that a step may take; None lets the plan decide.
        isolate: False works in this process, where nothing is isolated and no timeout is kept.
    """

    def __init__(self, plan: Plan, *, timeout: float | None = None, isolate: bool = True) -> None:
        self._plan = plan
        self._timeout = timeout
        self._make: Callable[..., Worker] = WorkerProcess if isolate else LocalWorker
        self._posts: dict[str, _Post] = {}

    def close(self) -> None:
        """End all processes, whatever they are doing."""
        for post in self._posts.values():
            post.worker.close()
        self._posts.clear()

    def start(self, cells: Sequence[Cell]) -> None:
        """Start the processes that the cells lack, all at once: importing torch takes seconds."""
        for cell in cells:
            self._post(cell)

    def check(self, cell: Cell, group: Group) -> Found | PrefillFound | Failure:
        """Run a cell once and compare its output; afterwards it can be timed."""
        found = self._check(cell, group)
        if isinstance(found, Failure) and found.status == "oom" and self._plan.machine.gpu and self._others_hold(cell):
            # What the other workers hold may be what was missing.
            self.release(everything=True)
            found = self._check(cell, group)
        if not group.keep_inputs and not group.effort.checked_call_counts:
            self.release()
        return found

    def measure(self, cell: Cell, group: Group) -> tuple[Timing | PrefillTiming, dict[str, Any]] | Failure:
        """Time one round of a cell; return it with what was seen of the machine meanwhile."""
        if self._post(cell).holds != cell.key:
            again = self._check(cell, group)
            if isinstance(again, Failure):
                return again
        watch = Watch(self._plan.machine.gpu, self._our_processes())
        timing: Timing | PrefillTiming | Failure = self._step(
            cell, "timing", "measure", group.effort, limit=self._limit(group), tick=watch.tick
        )
        if isinstance(timing, Failure):
            return timing
        seen = watch.fields() | {"launch": self._post(cell).launch}
        if not group.keep_inputs:
            self.release()
        return timing, seen

    def release(self, *, everything: bool = False) -> None:
        """Have all workers give back the memory of their inputs; with ``everything``, of their models too."""
        for label, post in list(self._posts.items()):
            if post.holds is None:
                continue
            post.holds = None
            try:
                post.worker.call("release", everything, timeout=self._timeout or 60)
            except RuntimeError:
                self._end(label)

    def _check(self, cell: Cell, group: Group) -> Found | PrefillFound | Failure:
        post = self._post(cell)
        # Imports and models are no step of a cell, and may well take longer than one.
        limit = LOAD_SECONDS if self._plan.request.model else START_SECONDS
        if isinstance(failed := self._step(cell, "loading", "load", limit=limit), Failure):
            return failed
        post.loaded = True
        found: Found | PrefillFound | Failure = self._step(
            cell, "checking", "check", group.shape, group.layer, limit=self._limit(group)
        )
        return found

    def _step(
        self,
        cell: Cell,
        doing: str,
        name: str,
        *args: Any,
        limit: float,
        tick: Callable[[], None] | None = None,
    ) -> Any:
        """Call a method of a cell's `Hand`; return its value or how it failed."""
        label, post = cell.asked["label"], self._post(cell)
        post.holds = cell.key
        try:
            answer = cast("Answer[Any]", post.worker.call(name, *args, timeout=limit, tick=tick))
        except WorkerHungError as error:
            self._end(label)
            return Failure("timeout", f"{doing}: {error}; --timeout sets the limit")
        except WorkerLostError as error:
            self._end(label)
            return Failure("oom" if error.starved else "error", f"{doing}: {error}")
        if isinstance(answer.value, Failure):
            post.holds = None
        if not answer.fit:
            self._end(label)
        return answer.value

    def _post(self, cell: Cell) -> _Post:
        label = cell.asked["label"]
        if label not in self._posts:
            request = self._plan.request
            hand = (EngineHand if request.engine == "vllm" else ModelHand) if request.model else Hand
            self._posts[label] = _Post(self._make(hand, self._setup(cell)))
        return self._posts[label]

    def _setup(self, cell: Cell) -> Setup:
        asked, spec = self._plan.request, cell.candidate.spec
        device, version = str(self._plan.machine.device), cell.asked["code_version"]
        return Setup(
            spec,
            asked.backend,
            asked.inputs,
            asked.dtype,
            asked.seed,
            device,
            version,
            model=asked.model or "",
            engine=asked.engine,
            longest=max(asked.lens),
            share=1 / len(self._plan.groups[0].cells),
        )

    def _end(self, label: str) -> None:
        self._posts.pop(label).worker.close()

    def _limit(self, group: Group) -> float:
        return self._timeout or group.step_limit

    def _others_hold(self, cell: Cell) -> bool:
        return any(post.holds not in (None, cell.key) for post in self._posts.values())

    def _our_processes(self) -> set[int]:
        """Return the processes of this run that the GPU's driver may list."""
        workers = {post.worker.pid for post in self._posts.values() if post.loaded}
        return workers | ({os.getpid()} if torch.cuda.is_initialized() else set())  # type: ignore[no-untyped-call]
