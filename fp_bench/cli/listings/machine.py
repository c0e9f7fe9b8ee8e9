"""Facts of this machine, and the methods and kernels that run on it, each tried on a tiny call in a worker process."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import closing

import torch

from fp_bench.jobs.failures import failure
from fp_bench.jobs.isolation import WorkerHungError, WorkerLostError, WorkerProcess
from fp_bench.jobs.machine import Machine
from fp_bench.kernels.backend import BACKENDS
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.dense import implementations
from fp_bench.methods.registry import Spec, create_method, methods
from fp_bench.records.environment import environment_rows, installed
from fp_bench.reports.table import Table

TESTED = (
    ("3.11", "2.13", "3.7", "5.17", "CPU"),
    ("3.11", "2.15", "3.9", "5.24", "CPU"),
    ("3.12", "2.11", "3.6", "5.17", "H200"),
)
"""Versions of Python, torch, triton and transformers that passed the tests, and the device (CONTRIBUTING.md)."""
TRIAL_SECONDS = 120.0
"""That a trial may take, compiling included."""
TINY = (256, 4096)
"""Lengths of the trial calls; the longer one is for methods that run dense on the shorter."""


def machine_table() -> Table:
    """Return the facts of this machine as in a record's environment."""
    return Table("This machine", ["what", "value"], environment_rows(Machine.here().environment()), numbers=2)


def tested_table() -> Table:
    """Return the versions that fpbench was tested with, and whether this machine has them."""
    gpu = Machine.here().gpu
    device = "CPU" if gpu is None else str(gpu.facts()["name"] or "an unknown GPU")
    here = (
        platform.python_version(),
        torch.__version__,
        *(installed(name) or "" for name in ("triton", "transformers")),
        device,
    )
    rows = [[*tested, "yes" if _matches(tested, here) else "no"] for tested in TESTED]
    if not any(row[-1] == "yes" for row in rows):
        rows.append([*here, "yes, and not tested"])
    return Table("Tested with", ["python", "torch", "triton", "transformers", "on", "this machine"], rows, numbers=6)


def _matches(tested: Sequence[str], here: Sequence[str]) -> bool:
    """Return whether the device kind was tested and versions agree; patch releases may differ."""
    versions = zip(tested[:-1], here[:-1], strict=True)
    return tested[-1] in here[-1] and all(f"{found}.".startswith(f"{version}.") for version, found in versions)


def runnable_table() -> Table:
    """Return every method, dense implementation and backend, and whether it runs here."""
    with closing(Trials()) as trials:
        rows = [[str(spec), backend, *trials.tried(spec, backend)] for spec, backend in _everything()]
    return Table("What runs here", ["method", "backend asked", "runs with", "why not"], rows, numbers=4)


def _everything() -> Iterator[tuple[Spec, str]]:
    for name in methods.targets():
        if name == "dense":
            yield from ((Spec(name, {"impl": impl}), "auto") for impl in ("auto", *implementations()))
        else:
            yield from ((Spec(name), backend) for backend in BACKENDS)


class Trials:
    """Tries methods in a worker process, so that a crash or a hang is reported like any other failure."""

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None

    def tried(self, spec: Spec, backend: str = "auto") -> tuple[str, str]:
        """Run a method on a tiny call; return its kernel, and why it failed or why a faster kernel did not run."""
        self._worker = self._worker or WorkerProcess(Trial)
        try:
            runs, why_not = self._worker.call("run", spec, backend, timeout=TRIAL_SECONDS)
        except (WorkerLostError, WorkerHungError) as error:
            self.close()
            return "", str(error)
        return runs, why_not

    def close(self) -> None:
        """End the worker process."""
        if self._worker:
            self._worker.close()
            self._worker = None


class Trial:
    """Tries one method; this is what runs in the worker process."""

    @torch.no_grad()
    def run(self, spec: Spec, backend: str) -> tuple[str, str]:
        """Run a method on a tiny call; return its kernel, and why it failed or why a faster kernel did not run."""
        try:
            method = create_method(spec, backend)
            for tokens in TINY:
                call = _tiny_call(tokens)
                if reason := method.unsupported(call):
                    return "", reason
                index = method.select(call)
                if index is not None or method.name == "dense":
                    break  # its own kernels run, not those of dense attention alone
            method.attend(call, index)
            if call.q.is_cuda:
                torch.cuda.synchronize()
            ran = method.implementation(call, index)
            too_short = index is None and method.name != "dense"
            note = f"dense: {tokens} tokens are too few for it" if too_short else method.slower_because(call, index)
            return ran, note or ""
        except Exception as error:  # a plug-in may raise anything
            return "", failure(error).reason


def _tiny_call(tokens: int) -> AttentionCall:
    device = Machine.here().device
    q, k, v = (torch.randn(1, tokens, heads, 128, device=device, dtype=torch.bfloat16) for heads in (2, 1, 1))
    return AttentionCall(q, k, v, scale=128**-0.5)
