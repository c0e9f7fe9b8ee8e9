"""The workers of a latency run at one place: one per method, of which one works at a time."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from fp_bench.jobs.agreement import Decided, said, shown
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.isolation import LOAD_SECONDS, START_SECONDS, descendants
from fp_bench.jobs.latency.noise import Watch
from fp_bench.jobs.latency.plan import Cell, Group, Plan
from fp_bench.jobs.latency.ttft import PrefillWorker
from fp_bench.jobs.latency.ttft_engine import EngineWorker
from fp_bench.jobs.latency.ttft_openai import ServedWorker
from fp_bench.jobs.latency.worker import Found, MethodWorker, Setup
from fp_bench.jobs.openai.servers import OPENAI, engine_name
from fp_bench.jobs.schedule import Conduct
from fp_bench.jobs.workers import Workers
from fp_bench.records.record import Fields

RELEASE_SECONDS = 60.0
WORKERS: Mapping[str, Callable[[Setup], object]] = {"hf": PrefillWorker, "vllm": EngineWorker, OPENAI: ServedWorker}
"""Of a model's prefill, by the name of the engine."""


class MethodWorkers(Workers):
    """Checks and times cells, each method in its own process.

    The processes stay for a launch (`Effort.launches`) of each group, of one launch for the whole run. Each holds the
    inputs of its cell between turns, unless all of them would fill the memory (`Group.keep_inputs`).

    Args:
        plan: the run, for the device of this place.
        conduct: of the run.
        threads: threads of each worker; None: torch's default.
    """

    def __init__(self, plan: Plan, conduct: Conduct, threads: int | None = None) -> None:
        super().__init__(isolate=conduct.isolate)
        self._plan = plan
        self._timeout = conduct.timeout
        self._threads = threads
        self._candidates = {cell.label: cell.candidate for group in plan.groups for cell in group.cells}

    def made(self, name: str) -> tuple[Callable[[Setup], object], Setup]:
        """Return the worker of a method's label, and its facts."""
        asked, candidate = self._plan.request, self._candidates[name]
        return WORKERS[engine_name(asked.engine)] if asked.model else MethodWorker, Setup(
            candidate.spec,
            asked,
            "cpu" if asked.servers else str(self._plan.machine.device),
            candidate.code_version,
            threads=self._threads,
            share=1 / len(self._candidates),
        )

    def make_room(self, name: str) -> bool:
        """Make the other workers free their inputs and models."""
        if self._plan.machine.gpu is None or not any(post.holds for label, post in self.posts() if label != name):
            return False
        self.release(everything=True)
        return True

    def check(self, cell: Cell, group: Group, decided: Decided) -> Found | Failure:
        """Run a cell once, with kernels that the run has decided on, and compare its output; then it can be timed."""
        found = self._check(cell, group, decided)
        if isinstance(found, Failure) and found.status == "oom" and self.make_room(cell.label):
            found = self._check(cell, group, decided)
        if not group.keep_inputs and not group.effort.checked_call_counts:
            self.release()
        return found

    def measure(self, cell: Cell, group: Group, decided: Decided) -> Fields | Failure:
        """Time one round of a cell; return what its record says of it, and of the machine meanwhile."""
        label = cell.label
        if self.post(label).holds != cell.key:
            again = self._check(cell, group, decided)
            if isinstance(again, Failure):
                return again
        # A GPU here may not be the server's.
        watch = Watch(None if self._plan.request.servers else self._plan.machine.gpu, self._our_processes())
        limit = self._timeout or group.step_limit
        timing: Fields | Failure = self.step(label, "timing", "measure", group.effort, limit=limit, tick=watch.tick)
        if isinstance(timing, Failure):
            return timing
        found = timing | watch.fields() | {"launch": self.post(label).launch}
        if not group.keep_inputs:
            self.release()
        return found

    def release(self, *, everything: bool = False) -> None:
        """Make all workers free the memory of their inputs; with ``everything``, of their models too."""
        for label, post in self.posts():
            if post.holds is None:
                continue
            post.holds = None
            try:
                post.worker.call("release", everything, timeout=self._timeout or RELEASE_SECONDS)
            except RuntimeError:
                self.end(label)

    def _check(self, cell: Cell, group: Group, decided: Decided) -> Found | Failure:
        label = cell.label
        # Imports and loading are not a step of a cell and may take longer than one.
        here = self._plan.request.model and not self._plan.request.servers
        if failed := self.load(label, LOAD_SECONDS if here else START_SECONDS):
            return failed
        self.post(label).holds = cell.key
        limit = self._timeout or group.step_limit
        follows = shown(cell.candidate, decided)
        found: Found | Failure = self.step(label, "checking", "check", group.shape, group.layer, follows, limit=limit)
        if isinstance(found, Failure):
            self.forget(label)
            return found
        used = said(cell.candidate, found.fields["dense_kernels"] or {}, decided)
        return replace(found, fields=found.fields | {"dense_kernels": used or None})

    def _our_processes(self) -> set[int]:
        """Return the processes of this run that the GPU's driver may list."""
        workers = [post.worker.pid for _, post in self.posts() if post.loaded]
        ranks = [below for worker in workers for below in descendants(worker)]  # of an engine on several GPUs
        return {*workers, *ranks} | ({os.getpid()} if torch.cuda.is_initialized() else set())  # type: ignore[no-untyped-call]
