"""The plan of a latency run: lengths x layers x methods become cells, with rounds and samples for each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import product
from typing import Any, ClassVar

import torch

from fp_bench.errors import UsageError
from fp_bench.inputs.captured import Captured
from fp_bench.inputs.open import open_inputs, versioned
from fp_bench.inputs.source import InputSource, Shape
from fp_bench.jobs.candidate import FLASHPREFILL_EMBEDDED, Asked, Candidate, candidates
from fp_bench.jobs.cost import Range, cell_seconds, prefill_flop, start_seconds, total, weights_in_use
from fp_bench.jobs.failures import Failure, yardstick
from fp_bench.jobs.latency.measure import MIN_SAMPLES, Effort
from fp_bench.jobs.latency.timers import timer_for
from fp_bench.jobs.machine import Machine, parse_dtype
from fp_bench.jobs.openai.servers import AS_SERVED, Load, engine_name
from fp_bench.jobs.request import LatencyRequest
from fp_bench.jobs.values import Heads, engine_arguments
from fp_bench.kernels.backend import HOPPER, capability, check_backend, gluon_missing
from fp_bench.methods.registry import Spec
from fp_bench.models.load import EMBEDDED, model_config, model_facts, model_label
from fp_bench.models.spec import positions
from fp_bench.models.vllm_engine import check_engine
from fp_bench.models.written_prompt import first_tokens
from fp_bench.records.record import PROMPT, TEXT, LatencyRecord
from fp_bench.sizes import format_length
from fp_bench.suites.fidelity import Fidelity

CPU_METHODS = (Spec("dense"), Spec("flashprefill"))
GPU_METHODS = (Spec("dense"), Spec("dense", {"impl": "fa2"}), Spec("flashprefill"))
SHORTEST_LIMIT, PATIENCE = 600.0, 20.0
"""Time limit of a step: these seconds, or this multiple of its estimate."""
LEAST_REQUESTS, RATED_REQUESTS = 8, 32
"""Requests of a round at a server: the least with a concurrency, and those with a rate."""
INPUTS_SHARE = 0.4
"""Share of the memory above which workers do not keep their inputs."""


CPU_HEADS = Heads(2, 1, 128)
CPU_HEADS_LONG = Heads(1, 1, 128)
CPU_LONG = 128 * 1024
"""Above this length a CPU run uses one head, because a dense call takes minutes."""
GPU_HEADS = Heads(32, 8, 128)


def dense_flop(shape: Shape) -> float:
    """Return the FLOP of causal dense attention."""
    return 2.0 * shape.batch * shape.q_heads * shape.head_dim * shape.seq_len**2


@dataclass(frozen=True, eq=False)
class Cell(Asked):
    """One method on one attention call."""

    record: ClassVar = LatencyRecord

    def timed(self, number: int, found: Mapping[str, Any]) -> LatencyRecord:
        """Return the record of a measured round; ``found`` are the measured fields."""
        return LatencyRecord.measured(self.asked, {"round": number} | dict(found))

    def failed(self, number: int, why: Failure) -> LatencyRecord:
        """Return the record of a cell that could not be measured from round ``number`` on."""
        return LatencyRecord.failed(self.asked, why.status, why.reason, number)


@dataclass(frozen=True)
class Group:
    """The cells that share inputs: every method at one length and layer. Their rounds are interleaved."""

    shape: Shape
    layer: int
    cells: Sequence[Cell]
    effort: Effort
    dense_seconds: float
    """Estimate of one dense call."""
    keep_inputs: bool = True
    """Whether every worker keeps its copy of the inputs between turns; otherwise it makes them again."""

    @property
    def step_limit(self) -> float:
        """Default time limit of a step (a check or a round), in seconds."""
        timed = max(self.effort.sample_seconds, self.dense_seconds * (self.effort.samples or MIN_SAMPLES))
        return max(SHORTEST_LIMIT, PATIENCE * (timed + self.dense_seconds))


@dataclass(frozen=True)
class Plan:
    """All cells of a run and how to measure each."""

    request: LatencyRequest
    machine: Machine
    input_name: str
    groups: Sequence[Group]

    def on(self, machine: Machine) -> "Plan":
        """Return the same plan for another device."""
        return replace(self, machine=machine)

    @property
    def seconds(self) -> Range | None:
        """How long the whole run may take on one device; None where a server does the work."""
        if self.request.servers:
            return None
        model = self.request.model is not None
        cells = (
            cell_seconds(
                group.effort,
                group.shape.seq_len,
                group.dense_seconds,
                dense=cell.asked["method"] == "dense",
                gpu=self.machine.gpu is not None,
                model=model,
            )
            for group in self.groups
            for cell in group.cells
        )
        return total([start_seconds(len(self.groups[0].cells), model=model), *cells])

    @property
    def records(self) -> int:
        """Number of records when nothing fails."""
        return sum(len(group.cells) * group.effort.rounds for group in self.groups)

    def notes(self) -> list[str]:
        """Return notes that a reader should know about the numbers, one line each."""
        notes = []
        if self.machine.gpu is None and not self.request.servers:
            shape = self.groups[0].shape
            notes.append(
                f"No GPU here: the torch backend on the CPU, {self.request.dtype}, {shape.q_heads} query and "
                f"{shape.kv_heads} KV heads of {shape.head_dim}; the speed-ups of a GPU differ."
            )
        if capability(self.machine.device) == HOPPER and (reason := gluon_missing()) and self.request.backend == "auto":
            notes.append(f"The portable kernels run, not the Hopper ones, which are faster: {reason}.")
        notes += [
            f"{format_length(group.shape.seq_len)}: a dense call takes about {group.dense_seconds:.0f} s, so each "
            "method is called once, without warm-up; this call is checked and is the only sample."
            for group in self.groups
            if group.effort.checked_call_counts
        ]
        return notes


def make_plan(request: LatencyRequest, machine: Machine | None = None, budget: float | None = None) -> Plan:
    """Resolve a request against a device and its inputs into cells; measures only one short call.

    Args:
        request: the options.
        machine: the device; None: the current one.
        budget: seconds that all of it has; where three launches may take longer, and none were asked for, it is one.

    Raises:
        UsageError: an unknown method, parameter, dtype, backend, input or layer, or a length the inputs do not have.
    """
    dtype = parse_dtype(request.dtype)
    check_backend(request.backend)
    if not request.servers:
        check_engine(request.engine, request.dtype, request.model or "", engine_arguments(request.engine_args))
    machine = machine or Machine.here()
    subject = _Prefills(request) if request.model else _Calls(request, machine)
    specs = request.methods or _default_methods(request, machine, subject.model)
    methods = candidates(specs, request.backend, request.servers)
    per_flop = 0.0 if request.servers else _seconds_per_flop(machine, subject.heads, dtype)
    torch.cuda.empty_cache()  # workers measure, in processes of their own
    groups = []
    for shape, layer, load in product(subject.shapes, subject.layers, subject.loads):
        cells = [Cell(c, _asked(request, subject, c, shape, layer, load)) for c in methods]
        seconds = per_flop * subject.flop(shape)
        held = 0 if request.servers else len(cells) * _input_bytes(shape, dtype)
        keep = held <= INPUTS_SHARE * machine.memory_bytes
        groups.append(Group(shape, layer, cells, subject.effort(seconds, load), seconds, keep))
    plan = Plan(request, machine, subject.name, groups)
    if request.launches is None and budget is not None and plan.seconds is not None and plan.seconds.most > budget:
        plan = replace(plan, groups=[replace(group, effort=replace(group.effort, launches=1)) for group in groups])
    return plan


def _default_methods(request: LatencyRequest, machine: Machine, model: str | None) -> Sequence[Spec]:
    # An engine has only its own dense attention.
    specs = GPU_METHODS if machine.gpu and request.engine == "hf" else CPU_METHODS
    if model != EMBEDDED:
        return specs
    return [FLASHPREFILL_EMBEDDED if spec == Spec("flashprefill") else spec for spec in specs]


class _Calls:
    """Plan of single attention calls."""

    loads: Sequence[Load | None] = (None,)

    def __init__(self, request: LatencyRequest, machine: Machine) -> None:
        self._request = request
        self._machine = machine
        source = open_inputs(request.inputs)
        self.name = source.name
        self.model = source.manifest.model if isinstance(source, Captured) else None
        self.heads = request.heads or _default_heads(machine, max(request.lens))
        self.shapes = [source.shapes(Shape(request.batch, length, *astuple(self.heads))) for length in request.lens]
        self.layers = _layers(source, request.layers)

    def flop(self, shape: Shape) -> float:
        """Return the FLOP of a dense call."""
        return dense_flop(shape)

    def effort(self, dense_seconds: float, load: Load | None) -> Effort:
        """Return rounds and samples for a call of this length."""
        del load
        return _effort(self._request, dense_seconds, self._machine)


class _Prefills:
    """Whole prefills of a model."""

    layers: Sequence[int] = (0,)

    def __init__(self, request: LatencyRequest) -> None:
        assert request.model is not None
        self._request = request
        self.model = request.model
        self.loads: Sequence[Load | None] = request.loads if request.servers else (None,)
        config = model_config(request.model)
        self.name = prompt_name(request)
        heads = getattr(config, "num_attention_heads", None)
        if heads is None:
            raise UsageError(f"model {request.model} has no attention heads, so no method can run")
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.heads = Heads(heads, getattr(config, "num_key_value_heads", None) or heads, head_dim)
        self._config, self._weights = config, weights_in_use(config)
        self.shapes = [Shape(1, length, *astuple(self.heads)) for length in request.lens]
        if request.text is not None:
            text = Fidelity.of_file(request.text).text()
            first_tokens(model_facts(request.model).tokenizer, text, max(request.lens))
        most = positions(config)
        if most is not None and max(request.lens) > most:
            raise UsageError(
                f"length {format_length(max(request.lens))} exceeds the {most} positions of model {request.model}"
            )

    def flop(self, shape: Shape) -> float:
        """Return the FLOP of a dense prefill; of weights that cannot be counted, of its attention alone."""
        return sum(prefill_flop(self._config, self._weights or 0.0, shape.seq_len))

    def effort(self, dense_seconds: float, load: Load | None) -> Effort:
        """Return rounds and samples for a prefill of this length, or for a load."""
        if load is not None:
            requests = max(LEAST_REQUESTS, 4 * load.concurrency) if load.concurrency else RATED_REQUESTS
            return _heeding(self._request, Effort(rounds=3, samples=requests, load=load))
        affordable = 3 if dense_seconds < 1 else 1
        return _heeding(self._request, Effort(rounds=3, samples=affordable, warm_up_seconds=0.0))


def prompt_name(request: LatencyRequest) -> str:
    """Return the input that records name: the model in its engine, and a hash of the text that it reads.

    Raises:
        UnavailableError: the model or the text's file cannot be read.
    """
    assert request.model is not None
    name = f"{PROMPT}{model_label(request.model, engine_name(request.engine), request.engine_args or ())}"
    return name if request.text is None else f"{name}{TEXT}{Fidelity.of_file(request.text).facts()['content']}"


def _seconds_per_flop(machine: Machine, heads: Heads, dtype: torch.dtype) -> float:
    """Time one short dense call, the yardstick of every estimate."""
    length = 8192 if machine.gpu else 2048
    with yardstick(machine.device):
        q = torch.randn(1, heads.q_heads, length, heads.head_dim, device=machine.device, dtype=dtype)
        timer = timer_for(machine.device)

        def dense() -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

        timer.once(dense)
        seconds = timer.once(dense)[1] / 1e3
    return seconds / dense_flop(Shape(1, length, heads.q_heads, heads.q_heads, heads.head_dim))


def _input_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Return the size of Q, K and V, and of the reference copy of K and V."""
    heads = shape.q_heads + 4 * shape.kv_heads
    return shape.batch * shape.seq_len * heads * shape.head_dim * dtype.itemsize


def _default_heads(machine: Machine, longest: int) -> Heads:
    if machine.gpu:
        return GPU_HEADS
    return CPU_HEADS if longest <= CPU_LONG else CPU_HEADS_LONG


def _layers(source: InputSource, asked: Sequence[int] | None) -> Sequence[int]:
    there = source.layers()
    for layer in asked or ():
        if layer not in there:
            raise UsageError(f"layer {layer} is not in {source.name}; it has {', '.join(map(str, there))}")
    return asked or there


def _effort(request: LatencyRequest, dense_seconds: float, machine: Machine) -> Effort:
    """Choose rounds and samples for a call of this length; the request overrides them."""
    unasked = request.rounds is None and request.samples is None and request.launches is None
    if machine.gpu is None and dense_seconds > 20 and unasked:
        return Effort(rounds=1, samples=1, checked_call_counts=True)
    if dense_seconds > 5:
        affordable = Effort(rounds=3, samples=1, warm_up_seconds=0.0)
    else:
        affordable = Effort(rounds=6 if dense_seconds < 1 else 3, launches=3)
    return _heeding(request, affordable)


def _heeding(request: LatencyRequest, affordable: Effort) -> Effort:
    """Return an effort with what was asked for in its place."""
    rounds = request.rounds or max(affordable.rounds, request.launches or 1)
    return replace(
        affordable,
        rounds=rounds,
        launches=request.launches or min(affordable.launches, rounds),
        samples=request.samples or affordable.samples,
    )


def _asked(
    request: LatencyRequest,
    subject: _Calls | _Prefills,
    candidate: Candidate,
    shape: Shape,
    layer: int,
    load: Load | None,
) -> dict[str, Any]:
    """Return the record fields of a cell that are known before it is measured."""
    method = candidate.fields()
    concurrency, rate = load or Load()
    one = request.pinned(lens=[shape.seq_len], **candidate.choice)
    if load is not None:
        one = one.pinned(concurrency=concurrency and [concurrency], rate=rate and [rate])
    if request.model is None:
        heads = Heads(shape.q_heads, shape.kv_heads, shape.head_dim)
        one = one.pinned(heads=heads, layers=[layer], inputs=versioned(request.inputs))
    return {
        **method,
        **asdict(shape),
        "kind": "latency",
        "asked_backend": candidate.method.backend if candidate.method else request.backend,
        "q_len": shape.seq_len,
        "dtype": request.dtype if load is None else AS_SERVED,
        "input": subject.name,
        "engine": engine_name(request.engine) if request.model else "operator",
        "layer": layer,
        "concurrency": concurrency,
        "rate": rate,
        "seed": request.seed,
        "command": one.command,
    }
