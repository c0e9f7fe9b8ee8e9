"""One record: one cell in one round, one line of versioned JSON. It imports without torch."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "unsupported", "unavailable", "incorrect", "error", "timeout"]
Clock = Literal["cuda_event", "wall_clock"]
Cache = Literal["cold", "as_left"]
"""State of the L2 cache before a sample: flushed, or as the call before left it."""

ASKED = (
    "kind", "method", "method_hash", "asked_backend", "seq_len", "q_len", "batch", "q_heads", "kv_heads",
    "head_dim", "dtype", "input", "layer", "seed",
)  # fmt: skip
"""The fields that say what was asked: `cell_key` is their hash."""


class Record(BaseModel):
    """One latency cell in one round. Times are milliseconds, sizes bytes, lengths tokens."""

    model_config = ConfigDict(extra="allow", frozen=True)

    schema_version: int = SCHEMA_VERSION
    kind: Literal["latency"] = "latency"
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
    """A sparse method that ran dense: it never counts as a speed-up."""

    seq_len: int
    """Keys of each sequence (kv_len)."""
    q_len: int
    batch: int
    q_heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    input: str
    """Where Q, K, V came from; records of different inputs are not comparable."""
    layer: int = 0
    seed: int = 0
    round: int = 0

    samples_ms: list[float] | None = None
    """Raw times of the whole operator in this round."""
    median_ms: float | None = None
    select_ms: float | None = None
    """Median of the selection alone; None for dense."""
    attend_ms: float | None = None
    """Median of the attention alone, on a selection made outside the timer."""
    timer: Clock | None = None
    cache: Cache | None = None
    engine: str = "operator"
    density: float | None = None
    """Kept share of the causal block pairs; 1 for dense."""
    density_by_head: list[float] | None = None
    recall: float | None = None
    """Share of dense attention mass that the kept blocks cover, mean over heads and sampled rows."""
    recall_by_head: list[float] | None = None
    rel_err: float | None = None
    """Norm of the difference to exact dense attention over its norm, on sampled rows."""
    rel_err_by_head: list[float] | None = None
    kernel_err: float | None = None
    """The same against the float32 definition on the same selection: what the correctness check saw."""
    rows_checked: int | None = None
    """Sampled query rows of each head that recall and the errors are over."""
    peak_bytes: int | None = None
    """Most device memory in use during one call beyond what its inputs hold."""
    tflops: float | None = None
    """4 * head_dim FLOP for each computed score entry, over the attention's time."""
    env: str | None = None
    """Id into env.json."""
    gpu: dict[str, Any] | None = None
    """The GPU while this round was timed: see `fp_bench.latency.noise.summary`."""
    throttled: bool | None = None
    """Whether the GPU's clocks were held down at any time in the round; None where that is not known."""
    load_average: float | None = None
    """Of the host over the last minute, when the round ended; this run is part of it."""
    command: str | None = None
    """The line that measures this one cell again."""
    time: str | None = None
    """When it was written, UTC."""

    @model_validator(mode="after")
    def _fill_and_check(self) -> "Record":
        if not self.cell_key:
            object.__setattr__(self, "cell_key", cell_key(self.model_dump(include=set(ASKED))))
        if (self.status == "ok") != (self.median_ms is not None):
            raise ValueError(f"status {self.status!r} with median_ms {self.median_ms}: a time needs status ok")
        return self


def cell_key(asked: dict[str, Any]) -> str:
    """Return sixteen hex digits of what was asked (the fields ``ASKED``)."""
    text = json.dumps({name: asked[name] for name in ASKED}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
