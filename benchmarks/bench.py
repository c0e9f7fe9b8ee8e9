"""What comparisons with official code share: a call, rows in a file, a time."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fp_bench.inputs.source import Shape
from fp_bench.inputs.structured import Structured
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.methods.base import AttentionCall
from fp_bench.sizes import format_length

DEFINED_UP_TO = 4096
"""Longest call whose selection is compared with the float32 definition too."""
SECONDS = 0.3
"""Of samples a timing."""


@dataclass(frozen=True)
class Bench:
    """Where the tensors live, and where rows go."""

    heads: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    file: Path

    def call(self, length: int) -> AttentionCall:
        """Return a call on structured inputs of ``length`` tokens."""
        return structured_call(Shape(1, length, *self.heads), self.device, self.dtype)

    def row(self, kind: str, length: int, what: str, make: Callable[[], Mapping[str, object]]) -> None:
        """Write and print one row; one that cannot be made says why and takes no other with it."""
        row: dict[str, Any] = {"kind": kind, "length": length, "what": what}
        try:
            row |= make()
        except Exception as error:  # an official kernel may fail in any way, and the other rows still count
            lines = str(error).strip().splitlines() or [""]
            row["error"] = f"{type(error).__name__}: {lines[0][:200]}"
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        values = "  ".join(
            f"{key} {_text(value)}" for key, value in row.items() if key not in ("kind", "length", "what")
        )
        print(f"{kind:6} {format_length(length):>5} {what:58} {values}", flush=True)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def structured_call(
    shape: Shape, device: torch.device, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> AttentionCall:
    """Return a call on structured inputs."""
    qkv = Structured().tensors(shape, layer=0, seed=seed, dtype=dtype, device=device)
    return AttentionCall(*qkv, scale=shape.head_dim**-0.5)


def milliseconds(call: Callable[[], object], timer: CudaEvents, samples: int) -> float:
    """Return the median time of so many warm calls, cold cache."""
    call()
    call()
    return statistics.median(timer.samples(call, samples))


def timed(call: Callable[[], object], timer: CudaEvents) -> dict[str, float]:
    """Return the median time of warm calls, cold cache, and the most memory one holds beyond its inputs."""
    call()
    timer.once(call)
    _, each = timer.once(call)
    samples = timer.samples(call, min(30, max(5, int(SECONDS * 1e3 / each))))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return {"ms": statistics.median(samples), "ms_min": min(samples), "peak_gib": peak / 2**30}
