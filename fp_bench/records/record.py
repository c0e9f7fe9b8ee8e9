"""One record: one cell in one round, or one scored sample; one line of versioned JSON. It imports without torch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Required, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from typing_extensions import TypedDict

SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "unsupported", "unavailable", "incorrect", "error", "timeout"]
Clock = Literal["cuda_event", "wall_clock"]
DensityOf = Literal["causal query-key pairs"]
DENSITY_OF: DensityOf = "causal query-key pairs"
"""What a density is a share of."""
PROMPT, TEXT = "prompt:", ":text="
"""Inputs of a model's prefill: the prefix, the model's name (``@vllm`` or ``@openai`` with these engines), and of a
given text the second and a hash."""
Cache = Literal["cold", "as_left"]
"""State of the L2 cache before a sample: flushed, or as the previous call left it."""

# Records may come from strangers: a number or a text beyond these limits is not a measurement.
Name = Annotated[str, StringConstraints(max_length=4096)]
Prose = Annotated[str, StringConstraints(max_length=2**20)]
FilePart = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9_.+-]*$")]
"""Part of a file's name."""
Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**40)]
Heads = Annotated[int, Field(ge=1, le=2**16)]
Number = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Difference = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=1e-6, le=1e12, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1.001, allow_inf_nan=False)]
"""Rounding may lift a mean of shares slightly above 1."""
Shares = Annotated[list[Share], Field(max_length=2**16)]


Figure = Annotated[int | float | Name, Field(union_mode="smart")]
Fields = dict[str, Any]
"""Some fields of a record by their names, as whoever measures them returns them; the record checks them."""


class Spread(TypedDict, total=False):
    """A clock in MHz during a round."""

    min: Number
    median: Required[Number]
    max: Number


class GpuSeen(TypedDict, total=False):
    """The GPU while a round was timed; older records have one reading instead of a summary."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    sm_mhz: Spread | Number | None
    throttle: dict[Name, Share] | list[Name] | None
    other_processes: Count | None
    reason: Name


class Record(BaseModel):
    """Fields of every record. Times are in milliseconds, sizes in bytes, lengths in tokens.

    Unknown fields are kept as read; `RecordStore.append` does not write them.
    """

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    asked: ClassVar[tuple[str, ...]]
    """The fields that describe the request: `cell_key` is their hash."""
    result: ClassVar[str]
    """The field that is present if and only if the status is ok."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    kind: str
    status: Status
    reason: Prose | None = None
    """Why the status is not ok, in one line."""
    cell_key: FilePart = ""
    """Hash of the request without code_version, so that two versions can be compared."""
    code_version: FilePart
    """Package version and a hash of its source; for a plug-in also a hash of the plug-in's source."""
    method: Name
    label: Name
    """Method and its changed parameters, as written on the command line."""
    method_hash: Name
    """Hash of name, version and all parameters."""
    params: dict[str, Any] = {}
    asked_backend: Name = "auto"
    backend: Name | None = None
    """The kernel or dense implementation that computed the attention."""
    fallback: bool = False
    """Whether a sparse method ran dense; then it does not count as that method's result."""
    seq_len: Size
    """Keys of each sequence (kv_len); for a sample, the tokens available for prompt and answer."""
    dtype: Name
    seed: Count = 0
    round: Count = 0
    engine: Name = "operator"
    """What made the attention call: ``operator`` alone, or a model in ``hf`` (transformers), in ``vllm``, or behind a
    server (``openai``)."""
    density: Share | None = None
    """Computed share of the pairs named by ``density_of``, mean over heads and all layers, dense ones included; 1 for
    dense."""
    density_of: DensityOf | None = None
    """None in older records, whose density covers only sparse layers, and block pairs for methods that keep blocks."""
    density_sparse: Share | None = None
    """Density of the model's sparse layers only."""
    sparse_layers: Count | None = None
    """Number of the model's layers that ran sparse."""
    model_layers: Count | None = None
    """Number of the model's layers whose prefill attention was observed."""
    recall: Share | None = None
    """Share of the dense attention mass in the kept blocks, mean over heads and sampled rows."""
    dense_calls: dict[Name, Count] | None = None
    """Number of attention calls of a model's prefill that ran dense, by reason."""
    dense_kernels: dict[Name, Name] | None = None
    """Kernels of dense attention that ``dense:impl=auto`` stood for, by the calls for which the run decided; with
    ``of LABEL:`` a plug-in decided for itself. None if nothing ran on ``auto``, or there is one kernel to choose."""
    env: Name | None = None
    """Key of the environment in env.json."""
    command: Prose | None = None
    """The command that measures this cell again."""
    time: Name | None = None
    """Time of writing, UTC."""

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
        if not self.cell_key:
            object.__setattr__(self, "cell_key", cell_key(self.model_dump(include=set(self.asked)), self.asked))
        if (self.status == "ok") != (getattr(self, self.result) is not None):
            value = getattr(self, self.result)
            raise ValueError(f"status {self.status!r} with {self.result} {value}: a result needs status ok")
        return self

    @classmethod
    def measured(cls, asked: Mapping[str, Any], found: Mapping[str, Any]) -> Self:
        """Return the record of a measurement; if a value is impossible, a failed record that names it.

        Args:
            asked: fields of the request.
            found: measured fields.
        """
        try:
            return cls(**asked, status="ok", **found)
        except ValidationError as error:
            name = error.errors()[0]["loc"][:1]
            if not name or name[0] not in found or name[0] == "round":
                raise
            return cls.failed(asked, "incorrect", problem(error), found.get("round", 0))

    @classmethod
    def failed(cls, asked: Mapping[str, Any], status: Status, reason: str, number: int = 0) -> Self:
        """Return the record of a cell that could not be measured from round ``number`` on, with the reason."""
        return cls(**asked, status=status, reason=reason.encode(errors="replace").decode(), round=number)


class LatencyRecord(Record):
    """One attention call of one method, or a model's prefill, in one round."""

    asked: ClassVar[tuple[str, ...]] = (
        "kind", "method", "method_hash", "asked_backend", "seq_len", "q_len", "batch", "q_heads", "kv_heads",
        "head_dim", "dtype", "input", "layer", "seed", "concurrency", "rate",
    )  # fmt: skip
    result: ClassVar[str] = "median_ms"

    kind: Literal["latency"] = "latency"
    q_len: Size
    batch: Size
    q_heads: Heads
    kv_heads: Heads
    head_dim: Heads
    input: Name
    """Source of Q, K and V; records of different inputs are not comparable."""
    layer: Count = 0
    concurrency: Count | None = None
    """Requests that a server had to answer at once; None where it had not, or nothing was served."""
    rate: Number | None = None
    """Requests a second that came to a server instead, at random times."""
    benchmark_version: Count = 1
    """Version of the timing procedure; runs of different versions are not compared."""

    samples_ms: Annotated[list[Number], Field(max_length=2**20)] | None = None
    """Raw times of the whole operator in this round; of the whole prefill, if an engine ran it; of each request's first
    token, if a server did."""
    median_ms: Milliseconds | None = None
    launch: Name | None = None
    """The process that measured this round; its rounds share tuning, memory and clocks."""
    select_ms: Number | None = None
    """Median time of the selection; None for dense."""
    attend_ms: Number | None = None
    """Median time of the attention, on a selection made outside the timer."""
    ttft_ms: Milliseconds | None = None
    """Median time to first token of a model, from token ids on the device (vLLM: on the host) to the first token; of a
    server, from sending a request to its first piece of text (TTFT)."""
    itl_ms: Annotated[list[Number], Field(max_length=2**20)] | None = None
    """Times between pieces of text of a served answer (inter-token latency, ITL), of all requests of the round."""
    tpot_ms: Annotated[list[Number], Field(max_length=2**20)] | None = None
    """Time of an answer's tokens after the first, over their number (time per output token, TPOT), of each request."""
    request_throughput: Number | None = None
    """Requests a second that a server answered in the round."""
    attention_ms: Number | None = None
    """Time of all attention calls of one prefill: selection and attention, dense calls included."""
    timer: Clock | None = None
    cache: Cache | None = None
    density_by_head: Shares | None = None
    recall_by_head: Shares | None = None
    rel_err: Number | None = None
    """Relative error to exact dense attention: norm of the difference over the norm, on sampled rows."""
    rel_err_by_head: Annotated[list[Number], Field(max_length=2**16)] | None = None
    kernel_err: Number | None = None
    """Relative error to the float32 definition on the same selection, from the correctness check."""
    skipped: Share | None = None
    """Share of the kept tiles that attention skipped after the first product (skip-softmax); None if it cannot skip."""
    tolerance: Number | None = None
    """Relative error per head that the method declared and was allowed; None: the limit of its dtype."""
    rows_checked: Count | None = None
    """Number of sampled query rows per head, for recall and the errors."""
    note: Prose | None = None
    """Why the method ran a slower kernel than this GPU supports."""
    peak_bytes: Count | None = None
    """Peak device memory of one call, beyond its inputs."""
    tflops: Number | None = None
    """4 * head_dim FLOP per computed score entry, divided by the attention's time."""
    gpu: GpuSeen | None = None
    """The GPU while this round was timed: see `fp_bench.jobs.latency.noise.summary`."""
    throttled: bool | None = None
    """Whether the GPU's clocks were held down at any time in the round; None if unknown."""
    load_average: Number | None = None
    """Load of the host over the last minute when the round ended, this run included."""

    @property
    def load(self) -> str:
        """What a server had to answer, in words; empty where nothing was served."""
        return load_name(self.concurrency, self.rate)


class AccuracyRecord(Record):
    """One sample of a suite, answered by a model with one method."""

    asked: ClassVar[tuple[str, ...]] = (
        "kind", "method", "method_hash", "asked_backend", "model", "dtype", "dense_layers", "chat", "reasoning",
        "suite", "variant", "suite_version", "suite_params", "task", "seq_len", "sample_id", "seed", "tokenizer",
    )  # fmt: skip
    result: ClassVar[str] = "score"

    kind: Literal["accuracy"] = "accuracy"
    model: Name
    tokenizer: FilePart | None = None
    """Hash of the tokenizer's vocabulary and chat template; None for the embedded model's."""
    suite: Name
    variant: Name
    """Variant of the suite; empty if it has only one."""
    suite_version: Count
    suite_params: dict[str, Any] = {}
    task: Name
    task_number: Count = 0
    """Position of the task in its suite."""
    sample_id: Name
    """Equal for every model and method; it pairs the results of methods."""
    dense_layers: Count | Name = 0
    """Layers that ran dense with every method: a number of first ones, or a set such as ``0-3,17``."""
    chat: bool = False
    """Whether prompts use the tokenizer's chat template, except in tasks that never do."""
    reasoning: Name | None = None
    """Limit and end of thoughts, or ``closed at once`` if the chat template opens an unwanted one; None without
    thoughts, and in tasks without a template."""
    score: Score | None = None
    """From 0 to 1; 0 for a thought without an end."""
    lenient_score: Score | None = None
    """A more tolerant score, in tasks whose standard metric rejects right answers in another form."""
    kl: Number | None = None
    """Mean Kullback-Leibler divergence of the next-token distributions from dense attention's, in nats; for samples
    without answers."""
    nll: Number | None = None
    """Mean negative log-likelihood of the text's next tokens, in nats; for samples without answers."""
    nll_difference: Difference | None = None
    """``nll`` minus that of dense attention on the same text; above 0 the method predicts the text worse."""
    agreement_by_part: Shares | None = None
    """``score`` of each of 16 runs of neighbouring positions, in order, because neighbours depend on each other."""
    kl_by_part: Annotated[list[Number], Field(max_length=2**10)] | None = None
    """``kl`` of the same runs."""
    nll_difference_by_part: Annotated[list[Difference], Field(max_length=2**10)] | None = None
    """``nll_difference`` of the same runs."""
    prediction: Prose | None = None
    """The model's answer, after its thought."""
    thought: Prose | None = None
    """The end of its thought, up to 400 characters."""
    thought_cut: bool | None = None
    """Whether the thought has no end, so that there is no answer; None if the model does not reason."""
    answers: Annotated[list[Prose], Field(max_length=2**16)] | None = None
    provenance: dict[Name, Name] | None = None
    """Versions and hashes of the sample's data, if it is not part of the package."""
    depth: Score | None = None
    """Position of the answer in the context, from 0 (start) to 1 (end), in suites that choose it."""
    groups: Annotated[list[Name], Field(max_length=256)] | None = None
    """Kinds of question to which the sample belongs; each has its own mean."""
    templated: bool | None = None
    """Whether this prompt used the chat template."""
    cut_tokens: Count | None = None
    """Tokens removed from the middle of the prompt to make it fit."""
    prompt_tokens: Count | None = None
    new_tokens: Count | None = None
    seconds: Number | None = None
    """Wall-clock time of the sample in its process; other processes may share the device."""


class BenchmarkRecord(Record):
    """One row of a script in ``benchmarks/``, for measurements outside the jobs."""

    asked: ClassVar[tuple[str, ...]] = ("kind", "benchmark", "label", "method_hash", "seq_len", "dtype", "case", "seed")
    result: ClassVar[str] = "figures"

    kind: Literal["benchmark"] = "benchmark"
    method_hash: Name = ""
    benchmark: Name
    """Name of the script."""
    case: dict[Name, Figure] = {}
    """Properties that identify a row, besides label and length."""
    figures: dict[Name, Figure | None] | None = None
    """Measured values, by names that the script explains; ``_ms`` and ``_us`` are times."""


LONGEST_SHOWN = 60
"""Maximum length of a value in an error message."""
KINDS: dict[str, type[LatencyRecord | AccuracyRecord | BenchmarkRecord]] = {
    "latency": LatencyRecord,
    "accuracy": AccuracyRecord,
    "benchmark": BenchmarkRecord,
}
AnyRecord = Annotated[LatencyRecord | AccuracyRecord | BenchmarkRecord, Field(discriminator="kind")]
"""A line of a run, by its kind."""


def load_name(concurrency: int | None, rate: float | None) -> str:
    """Return what a server has to answer, in words; empty where nothing is served."""
    if rate is not None:
        return f"{rate:g} a second"
    return "" if concurrency is None else f"{concurrency} at once"


def cell_key(fields: dict[str, Any], asked: tuple[str, ...]) -> str:
    """Return a hash of the request, sixteen hex digits: the fields named by ``asked`` that are not None."""
    text = json.dumps({name: fields[name] for name in asked if fields.get(name) is not None}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def problem(error: ValidationError) -> str:
    """Return the first reason why the fields are not a record, in one line: the field, its value and the limit."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in KINDS)
    value = repr(first["input"])
    said = f"{where} {value if len(value) < LONGEST_SHOWN else value[:LONGEST_SHOWN] + '...'}: " if where else ""
    return said + str(first["msg"])
