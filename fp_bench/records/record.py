"""One record: one cell in one round, or one scored sample; one line of versioned JSON. It imports without torch."""

import hashlib
import json
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "unsupported", "unavailable", "incorrect", "error", "timeout"]
Clock = Literal["cuda_event", "wall_clock"]
Cache = Literal["cold", "as_left"]
"""State of the L2 cache before a sample: flushed, or as the call before left it."""


class Record(BaseModel):
    """What every record has. Times are milliseconds, sizes bytes, lengths tokens."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    asked: ClassVar[tuple[str, ...]]
    """The fields that say what was asked: `cell_key` is their hash."""
    result: ClassVar[str]
    """The field that a record has if and only if its status is ok."""

    schema_version: int = SCHEMA_VERSION
    kind: str
    status: Status
    reason: str | None = None
    """Why status is not ok, in one line."""
    cell_key: str = ""
    """Hash of what was asked; code_version is left out, so that two versions can be compared."""
    code_version: str
    """Package version and a hash of the package's source."""
    method: str
    label: str
    """Method with its changed parameters, as the command line takes it."""
    method_hash: str
    """Hash of name, version and all parameters."""
    params: dict[str, Any] = {}
    asked_backend: str = "auto"
    backend: str | None = None
    """What really computed the attention: a kernel or a dense implementation."""
    fallback: bool = False
    """A sparse method that ran dense: it never counts as that method's result."""
    seq_len: int
    """Keys of each sequence (kv_len); of a sample, the tokens that prompt and answer may take."""
    dtype: str
    seed: int = 0
    round: int = 0
    engine: str = "operator"
    """What ran the attention call: ``operator`` alone, or a model in ``hf`` (transformers) or ``vllm``."""
    density: float | None = None
    """Kept share of the causal block pairs; 1 for dense."""
    recall: float | None = None
    """Share of dense attention mass that the kept blocks cover, mean over heads and sampled rows."""
    env: str | None = None
    """Id into env.json."""
    command: str | None = None
    """The line that measures this one cell again."""
    time: str | None = None
    """When it was written, UTC."""

    @model_validator(mode="after")
    def _fill_and_check(self) -> Self:
        if not self.cell_key:
            object.__setattr__(self, "cell_key", cell_key(self.model_dump(include=set(self.asked)), self.asked))
        if (self.status == "ok") != (getattr(self, self.result) is not None):
            value = getattr(self, self.result)
            raise ValueError(f"status {self.status!r} with {self.result} {value}: a result needs status ok")
        return self


class LatencyRecord(Record):
    """One attention call of one method, or a model's prefill, in one round."""

    asked: ClassVar[tuple[str, ...]] = (
        "kind", "method", "method_hash", "asked_backend", "seq_len", "q_len", "batch", "q_heads", "kv_heads",
        "head_dim", "dtype", "input", "layer", "seed",
    )  # fmt: skip
    result: ClassVar[str] = "median_ms"

    kind: Literal["latency"] = "latency"
    q_len: int
    batch: int
    q_heads: int
    kv_heads: int
    head_dim: int
    input: str
    """Where Q, K, V came from; records of different inputs are not comparable."""
    layer: int = 0
    benchmark_version: int = 1
    """Of how times are taken: a protocol that changes them raises it, and runs of two are not compared."""

    samples_ms: list[float] | None = None
    """Raw times of the whole operator (of the whole prefill with an engine) in this round."""
    median_ms: float | None = None
    select_ms: float | None = None
    """Median of the selection alone; None for dense."""
    attend_ms: float | None = None
    """Median of the attention alone, on a selection made outside the timer."""
    ttft_ms: float | None = None
    """Median time to first token of a model: from token ids on the device, in vLLM on the host, to the first token."""
    attention_ms: float | None = None
    """Time of the attention of all layers within one prefill, selecting and attending."""
    timer: Clock | None = None
    cache: Cache | None = None
    density_by_head: list[float] | None = None
    recall_by_head: list[float] | None = None
    rel_err: float | None = None
    """Norm of the difference to exact dense attention over its norm, on sampled rows."""
    rel_err_by_head: list[float] | None = None
    kernel_err: float | None = None
    """The same against the float32 definition on the same selection: what the correctness check saw."""
    rows_checked: int | None = None
    """Sampled query rows of each head that recall and the errors are over."""
    note: str | None = None
    """Why the method ran a slower kernel than the GPU is capable of."""
    peak_bytes: int | None = None
    """Most device memory in use during one call beyond what its inputs hold."""
    tflops: float | None = None
    """4 * head_dim FLOP for each computed score entry, over the attention's time."""
    gpu: dict[str, Any] | None = None
    """The GPU while this round was timed: see `fp_bench.jobs.latency.noise.summary`."""
    throttled: bool | None = None
    """Whether the GPU's clocks were held down at any time in the round; None where that is not known."""
    load_average: float | None = None
    """Of the host over the last minute, when the round ended; this run is part of it."""


class AccuracyRecord(Record):
    """One sample of a suite, answered by a model with one method."""

    asked: ClassVar[tuple[str, ...]] = (
        "kind", "method", "method_hash", "asked_backend", "model", "dtype", "dense_layers", "chat", "suite", "variant",
        "suite_version", "suite_params", "task", "seq_len", "sample_id", "seed",
    )  # fmt: skip
    result: ClassVar[str] = "score"

    kind: Literal["accuracy"] = "accuracy"
    model: str
    suite: str
    variant: str
    """Which protocol of the suite; empty where there is one."""
    suite_version: int
    suite_params: dict[str, Any] = {}
    task: str
    task_number: int = 0
    """Place of the task in its suite's order."""
    sample_id: str
    """The same for every model and method; results of methods are paired by it."""
    dense_layers: int = 0
    """First layers that ran dense whatever the method."""
    chat: bool = False
    """Whether prompts go through the tokenizer's chat template, but for tasks that never do."""
    score: float | None = None
    """0 to 1."""
    kl: float | None = None
    """Kullback-Leibler divergence of the next-token distributions from dense attention's, mean, nats; for samples
    without answers."""
    prediction: str | None = None
    answers: list[str] | None = None
    provenance: dict[str, str] | None = None
    """Versions and hashes of the data that the sample was made of, where it is not the package's own."""
    depth: float | None = None
    """Where in the context the answer stands, 0 (start) to 1 (end), in suites that choose a place."""
    groups: list[str] | None = None
    """Kinds of question that the sample is one of, each with a mean of its own."""
    templated: bool | None = None
    """Whether this prompt went through the chat template."""
    cut_tokens: int | None = None
    """Tokens left out of the middle of the prompt, so that it fits."""
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    dense_calls: dict[str, int] | None = None
    """Attention calls of the prefill that went dense, by reason."""
    seconds: float | None = None
    """Wall-clock time of the sample in its process, others at work on the device or not."""


KINDS: dict[str, type[LatencyRecord] | type[AccuracyRecord]] = {"latency": LatencyRecord, "accuracy": AccuracyRecord}


def cell_key(fields: dict[str, Any], asked: tuple[str, ...]) -> str:
    """Return sixteen hex digits of what was asked: the fields named by ``asked``."""
    text = json.dumps({name: fields[name] for name in asked}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
