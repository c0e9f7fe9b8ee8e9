"""The workers of an accuracy run at one place: one for the methods of this package, one for each other method."""

from collections.abc import Mapping, Sequence

from fp_bench.jobs.accuracy.plan import Item, Plan
from fp_bench.jobs.accuracy.worker import ModelWorker, Setup, Stripe
from fp_bench.jobs.accuracy.worker_engine import EngineModelWorker
from fp_bench.jobs.accuracy.worker_openai import ServedModelWorker
from fp_bench.jobs.agreement import Decided, said, shared, shown
from fp_bench.jobs.candidate import Candidate
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.isolation import LOAD_SECONDS, START_SECONDS
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.openai.servers import OPENAI, engine_name
from fp_bench.jobs.schedule import Conduct
from fp_bench.jobs.workers import Workers
from fp_bench.records.record import Fields

ANSWER_SECONDS = 600.0
"""Default time limit of an answer."""
THOUGHT_SECONDS = 0.25
"""And so much longer for each token of a thought."""
OURS = "methods of fp_bench"
WORKERS = {"hf": ModelWorker, "vllm": EngineModelWorker, OPENAI: ServedModelWorker}
"""By the name of the engine."""


class ModelWorkers(Workers):
    """Answers samples through workers.

    A model for each method would rarely fit, and loading it each turn would take longer than the answers. Therefore the
    methods of this package share a process and its model. A plug-in has its own process, so
    it cannot change other answers.

    Args:
        plan: the run.
        machine: the device of this place.
        conduct: of the run.
        stripes: numbers of the samples expected here, and maybe others.
        threads: threads of each worker; None: torch's default.
    """

    def __init__(
        self,
        plan: Plan,
        machine: Machine,
        conduct: Conduct,
        stripes: Mapping[Stripe, Sequence[int]],
        threads: int | None = None,
    ) -> None:
        super().__init__(isolate=conduct.isolate)
        self._machine = machine
        self._conduct = conduct
        self._threads = threads
        self._plan = plan
        self._stripes = stripes
        self._methods = self._by_worker()

    def _by_worker(self) -> dict[str, dict[str, Candidate]]:
        """Return the methods of each worker, by label."""
        found: dict[str, dict[str, Candidate]] = {}
        for candidate in self._plan.candidates:
            if candidate.problem is None:
                label = str(candidate.fields()["label"])
                found.setdefault(self._worker_of(candidate), {})[label] = candidate
        return found

    def go_on(self, plan: Plan, stripes: Mapping[Stripe, Sequence[int]]) -> None:
        """Answer the samples of another run on the same model; workers without a method in it end."""
        self._plan, self._stripes = plan, stripes
        self._methods = self._by_worker()
        for name, post in self.posts():
            if name != OURS and name not in self._methods:
                self.end(name)
                continue
            try:
                post.worker.call("go_on", self.made(name)[1], timeout=START_SECONDS)
            except RuntimeError:  # it is lost or hangs; another one is started when it is needed
                self.end(name)

    def made(self, name: str) -> tuple[type[ModelWorker], Setup]:
        """Return the worker for some methods, and its facts."""
        asked = self._plan.request
        return WORKERS[engine_name(asked.engine)], Setup(
            asked,
            methods={label: candidate.spec for label, candidate in self._methods.get(name, {}).items()},
            device="cpu" if asked.servers else str(self._machine.device),
            threads=self._threads,
            code_version=self._plan.code_version,
            share=1 / len(self._methods),
            stripes=self._stripes,
        )

    def make_room(self, name: str) -> bool:
        """End the other workers and their models."""
        others = [other for other, _ in self.posts() if other != name]
        for other in others:
            self.end(other)
        return bool(others)

    def answer(self, item: Item, decided: Decided) -> Fields | Failure:
        """Answer an item, with kernels that the run has decided on."""
        name = self._worker_of(item.candidate)
        found = self._answer(name, item, decided)
        if isinstance(found, Failure) and found.status == "oom" and self.make_room(name):
            found = self._answer(name, item, decided)
        return found

    def _answer(self, name: str, item: Item, decided: Decided) -> Fields | Failure:
        # Loading is not part of an answer and may take longer than one; a server's is a first token.
        if failed := self.load(name, ANSWER_SECONDS if item.candidate.server else LOAD_SECONDS):
            return failed
        limit = self._conduct.timeout or ANSWER_SECONDS + THOUGHT_SECONDS * (self._plan.request.thinking_tokens or 0)
        expected = None
        if item.compared and name != OURS:  # a plug-in may have changed what dense attention is in its process
            if failed := self.load(OURS, LOAD_SECONDS):
                return failed
            follows: Decided = shared(decided)
            expected = self.step(OURS, "answering densely", "expected", item.stripe, item.number, follows, limit=limit)
            if isinstance(expected, Failure):
                return expected
            decided = {**decided, **expected.kernels}
        follows = shown(item.candidate, decided)
        found: Fields | Failure = self.step(
            name, "answering", "answer", item.stripe, item.number, item.label, follows, expected, limit=limit
        )
        if isinstance(found, Failure):
            return found
        used = said(item.candidate, found["dense_kernels"] or {}, decided)
        if expected is not None:
            used = {**used, **expected.kernels}
        return found | {"dense_kernels": used or None}

    def _worker_of(self, candidate: Candidate) -> str:
        alone = self._conduct.isolate and not candidate.ours
        ours = candidate.server is None and not alone
        return OURS if ours else str(candidate.fields()["label"])
