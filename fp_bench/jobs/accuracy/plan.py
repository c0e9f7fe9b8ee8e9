"""The plan of an accuracy run: lengths x samples x methods become items, each one record."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.jobs.accuracy.worker import Stripe
from fp_bench.jobs.candidate import FLASHPREFILL_EMBEDDED, Asked, Candidate, candidates
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.machine import Machine, parse_dtype
from fp_bench.jobs.openai.servers import AS_SERVED, engine_name
from fp_bench.jobs.request import AccuracyRequest
from fp_bench.jobs.values import engine_arguments
from fp_bench.kernels.backend import check_backend
from fp_bench.methods.registry import Spec
from fp_bench.models.load import EMBEDDED, model_facts, model_label
from fp_bench.models.prompter import Prompter, prompter
from fp_bench.models.vllm_engine import check_engine
from fp_bench.records.environment import code_version
from fp_bench.records.record import AccuracyRecord, Fields
from fp_bench.sizes import format_length
from fp_bench.suites.registry import create_suite
from fp_bench.suites.suite import Suite

RIVALS = (Spec("flexprefill"), Spec("xattention"), Spec("minference"), Spec("streaming"))
METHODS = (Spec("dense"), Spec("flashprefill"), Spec("flashprefill", {"alpha": "0.3"}), *RIVALS)
METHODS_EMBEDDED = (
    Spec("dense"),
    FLASHPREFILL_EMBEDDED,
    Spec("flashprefill", {"alpha": "0.6"}),
    *RIVALS,
)
"""FlashPrefill calibrated to the embedded model (70 % kept at 4K), and sparser; the others as published."""
THINKING_TOKENS = 4096
"""That a thought may take."""
CPU_SAMPLES, GPU_SAMPLES = 3, 50
"""Samples a task and length."""


@dataclass(frozen=True, eq=False)
class Item(Asked):
    """One sample for one method."""

    record: ClassVar = AccuracyRecord

    stripe: Stripe
    number: int
    compared: bool
    """Whether the sample has no answers, so that distributions are compared with dense attention's."""

    def answered(self, found: Fields) -> AccuracyRecord:
        """Return the record of an answer."""
        return AccuracyRecord.measured(self.asked, found)

    def failed(self, why: Failure) -> AccuracyRecord:
        """Return the record of a failed sample."""
        return AccuracyRecord.failed(self.asked, why.status, why.reason)


@dataclass(frozen=True)
class Plan:
    """All items of a run, by length, then by number of the sample, so that an interrupted run is balanced."""

    request: AccuracyRequest
    machine: Machine
    candidates: Sequence[Candidate]
    items: Sequence[Item]
    samples: int
    """Samples per task and length; all of a task that has fewer."""
    chat: bool
    reasoning: str | None
    """As in `AccuracyRecord`."""
    code_version: str

    @property
    def prompts(self) -> Mapping[int, int]:
        """Number of prompts by length, each counted once per method."""
        return Counter(item.stripe[2] for item in self.items)

    def notes(self) -> list[str]:
        """Return notes that a reader should know about the numbers, one line each."""
        notes = []
        if self.request.model == EMBEDDED:
            notes.append("The embedded model only compares methods: it says nothing about the scores of other models.")
        if self.reasoning is not None:
            notes.append(f"Reasoning: {self.reasoning}.")
        if self.machine.gpu is None and not self.request.servers:
            notes.append("No GPU here: the torch backend on the CPU; scores equal those on a GPU, except for rounding.")
        return notes


def make_plan(request: AccuracyRequest, machine: Machine | None = None) -> Plan:
    """Resolve a request into items; the model's weights are not loaded.

    Args:
        request: the options.
        machine: the device; None: the current one.

    Raises:
        UsageError: an unknown suite, task, method, parameter, dtype, backend, chat or reasoning mode, or a length
            beyond the model's positions.
        UnavailableError: a suite, its data or the model's tokenizer cannot be loaded.
    """
    parse_dtype(request.dtype)
    check_backend(request.backend)
    if not request.servers:
        check_engine(request.engine, request.dtype, request.model, engine_arguments(request.engine_args))
    if request.engine == "vllm" and (request.dense or request.spread or (request.workers or 1) > 1):
        raise UsageError(f"--engine {request.engine} takes no --dense-layers, --spread or --workers")
    machine = machine or Machine.here()
    suites = {str(spec): create_suite(spec) for spec in request.suites}
    if request.servers and (name := next((name for name, suite in suites.items() if suite.compared), None)):
        raise UsageError(
            f"suite {name} compares next-token distributions, which a server does not give; use --engine hf"
        )
    _check_tasks(list(suites.values()), request.tasks or ())
    tasks = {name: _tasks(suite, request.tasks) for name, suite in suites.items()}
    facts = model_facts(request.model)
    reads = prompter(facts.tokenizer, request.chat, request.reasoning, request.thought_end)
    request = _with_reasoning(request, reads)
    thought = request.thinking_tokens or 0
    if facts.positions is not None and max(request.lens) + thought > facts.positions:
        beside = f" with thoughts of {thought} tokens" if thought else ""
        raise UsageError(
            f"length {format_length(max(request.lens))}{beside} exceeds the {facts.positions} positions of model "
            f"{request.model}; give shorter --lens"
        )
    if max(request.dense, default=-1) >= facts.layers:
        raise UsageError(f"--dense-layers {request.dense_layers} is out of limits: 0 to {facts.layers}")
    chat = {name: reads.chat and not suite.untemplated.issuperset(suite.tasks) for name, suite in suites.items()}
    specs = request.methods or (METHODS_EMBEDDED if request.model == EMBEDDED else METHODS)
    methods = candidates(specs, request.backend, request.servers)
    samples = request.samples or (GPU_SAMPLES if machine.gpu or request.servers else CPU_SAMPLES)
    available = {(name, task): suites[name].available(task) for name in suites for task in tasks[name]}
    # Once, because they read a model's weights and a suite's files.
    of_all = _asked_of_all(request)
    reasoning = _reasoning(request, reads)
    of_suite = {name: _asked_of_suite(suite, chat[name], reasoning) for name, suite in suites.items()}
    if request.model != EMBEDDED:
        for name in suites:
            of_suite[name]["tokenizer"] = Prompter(facts.tokenizer, chat[name]).identity
    items = [
        Item(
            candidate,
            of_all | of_suite[name] | _asked(request, candidate, chat[name], suites[name], task, length, number),
            (name, task, length),
            number,
            suites[name].compared,
        )
        for length in request.lens
        for number in range(samples)
        for name in suites
        for task in tasks[name]
        if (most := available[name, task]) is None or number < most
        for candidate in methods
    ]
    return Plan(request, machine, methods, items, samples, any(chat.values()), reasoning, code_version())


def _with_reasoning(request: AccuracyRequest, reads: Prompter) -> AccuracyRequest:
    """Return the request with what ``auto`` and the default budget are for this model.

    Raises:
        UsageError: a budget for thoughts that are not written.
    """
    if reads.reasons:
        return request.pinned(reasoning="on", thinking_tokens=request.thinking_tokens or THINKING_TOKENS)
    if request.thinking_tokens is not None:
        raise UsageError(
            f"--thinking-tokens {request.thinking_tokens}: model {request.model} does not reason here; "
            "give --reasoning on, or leave it out"
        )
    return request


def _reasoning(request: AccuracyRequest, reads: Prompter) -> str | None:
    """Return the field of records."""
    if reads.reasons and reads.marks:
        return f"up to {request.thinking_tokens} tokens, ended by {reads.marks.name}"
    return "closed at once" if reads.closing else None


def _tasks(suite: Suite, asked: Sequence[str] | None) -> list[str]:
    """Return the requested tasks of a suite; with several suites a task may belong to another."""
    if asked is None:
        return [task for task in suite.tasks if task not in suite.left_out]
    return [task for task in suite.tasks if task in asked]


def _check_tasks(suites: Sequence[Suite], asked: Sequence[str]) -> None:
    """Refuse a task that no suite has.

    Raises:
        UsageError: names the task.
    """
    if len(suites) == 1:
        suites[0].check_tasks(asked)
    known = {task for suite in suites for task in suite.tasks}
    for task in asked:
        if task not in known:
            raise UsageError(f"no suite has task {task!r}{did_you_mean(task, known)}")


def _asked_of_all(request: AccuracyRequest) -> Fields:
    """Return the record fields that all items have in common."""
    return {
        "kind": "accuracy",
        "engine": (engine := engine_name(request.engine)),
        "model": model_label(request.model, engine, request.engine_args or ()),
        "dtype": AS_SERVED if request.servers else request.dtype,
        "dense_layers": int(request.dense_layers) if request.dense_layers.isdigit() else request.dense_layers,
        "seed": request.seed,
    }


def _asked_of_suite(suite: Suite, chat: bool, reasoning: str | None) -> Fields:
    """Return the record fields that all items of a suite have in common."""
    return {
        "suite": suite.name,
        "variant": suite.variant,
        "suite_version": suite.version,
        "suite_params": suite.facts(),
        "chat": chat,
        "reasoning": reasoning if chat else None,
    }


def _asked(
    request: AccuracyRequest, candidate: Candidate, chat: bool, suite: Suite, task: str, length: int, number: int
) -> Fields:
    """Return the record fields of an item that are known before it is answered."""
    method = candidate.fields()
    one = request.pinned(
        suites=[Spec.parse(suite.label)],
        tasks=[task],
        lens=[length],
        **candidate.choice,
        samples=number + 1,
        chat="on" if chat else "off",
        workers=None,
    )
    return {
        **method,
        "asked_backend": candidate.method.backend if candidate.method else request.backend,
        "task": task,
        "task_number": suite.tasks.index(task),
        "seq_len": length,
        "sample_id": suite.sample_id(task, length, number),
        "command": one.command,
    }


def by_sample(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield the items of each sample together, in order."""
    together: list[Item] = []
    for item in items:
        if together and (item.stripe, item.number) != (together[0].stripe, together[0].number):
            yield together
            together = []
        together.append(item)
    if together:
        yield together
