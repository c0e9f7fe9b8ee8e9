"""What benchmarks share: a call, rows that become records, a time."""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fp_bench.inputs.source import Shape
from fp_bench.inputs.structured import Structured
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.schedule import written
from fp_bench.methods.base import AttentionCall
from fp_bench.records.environment import code_version
from fp_bench.records.record import BenchmarkRecord
from fp_bench.records.store import RecordStore
from fp_bench.sizes import format_length

DEFINED_UP_TO = 4096
"""Longest call whose selection is compared with the float32 definition too."""
SECONDS = 0.3
"""Of samples a timing."""


class Rows:
    """The rows of one script: each is a record in a run folder the moment it exists, and a line for people.

    Args:
        benchmark: the script.
        device: that it measures.
        out: the run folder.
    """

    def __init__(self, benchmark: str, device: torch.device, out: Path) -> None:
        self._benchmark = benchmark
        self._store = RecordStore(out)
        machine = Machine.of(device) if device.type == "cuda" else Machine.here()
        self._environment = machine.environment()

    @classmethod
    def asked(cls, benchmark: str) -> "Rows":
        """Return the rows of a script whose one option is ``--out``."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
        parser.add_argument("--out", type=Path, default=Path("runs") / benchmark, help="run folder")
        return cls(benchmark, torch.device("cuda"), parser.parse_args().out)

    def row(
        self,
        label: str,
        length: int,
        make: Callable[[], Mapping[str, Any]],
        *,
        dtype: str = "bf16",
        engine: str = "operator",
        **case: Any,
    ) -> None:
        """Write and print one row; one that cannot be made says why and takes no other with it."""
        asked = {
            "benchmark": self._benchmark,
            "method": label.partition(":")[0].partition(" ")[0],
            "label": label,
            "seq_len": length,
            "dtype": dtype,
            "engine": engine,
            "case": case,
            "code_version": code_version(),
            "command": " ".join([f"python -m benchmarks.{self._benchmark}", *sys.argv[1:]]),
        }
        try:
            record = BenchmarkRecord.measured(asked, {"figures": dict(make())})
        except Exception as error:  # an official kernel may fail in any way, and the other rows still count
            lines = str(error).strip().splitlines() or [""]
            record = BenchmarkRecord.failed(asked, "error", f"{type(error).__name__}: {lines[0][:200]}")
        written(self._store, record, self._environment)
        found = record.figures if record.figures is not None else {record.status: record.reason}
        values = "  ".join(f"{name} {_text(value)}" for name, value in (case | found).items())
        print(f"{format_length(length):>5} {label:58} {values}", flush=True)


@dataclass(frozen=True)
class Bench:
    """Where the tensors live, and where rows go."""

    heads: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    rows: Rows

    def call(self, length: int) -> AttentionCall:
        """Return a call on structured inputs of ``length`` tokens."""
        return structured_call(Shape(1, length, *self.heads), self.device, self.dtype)

    def row(self, kind: str, length: int, what: str, make: Callable[[], Mapping[str, object]]) -> None:
        """Write and print one row of a kind: what both select, what is defined, or a time."""
        dtype = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        self.rows.row(what, length, make, dtype=dtype, row=kind, heads="/".join(map(str, self.heads)))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def structured_call(
    shape: Shape, device: torch.device, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> AttentionCall:
    """Return a call on structured inputs of version 1, on which the published rows were measured."""
    qkv = Structured(1).tensors(shape, layer=0, seed=seed, dtype=dtype, device=device)
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
