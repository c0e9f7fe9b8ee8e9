"""The worker process: it makes the requested inputs, and checks and times one method on them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from fp_bench.inputs.open import open_inputs
from fp_bench.inputs.source import Shape
from fp_bench.jobs.failures import Answer, attempt, collect_and_free
from fp_bench.jobs.latency.definition import dense_truth
from fp_bench.jobs.latency.kept_maps import kept_maps
from fp_bench.jobs.latency.measure import Checked, Effort, check, computed_entries, measure
from fp_bench.jobs.latency.timers import WallClock, timer_for
from fp_bench.jobs.machine import parse_dtype, use_device
from fp_bench.jobs.request import LatencyRequest
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.methods.registry import Spec, create_method
from fp_bench.records.environment import check_code
from fp_bench.records.kept_maps import KeptMap
from fp_bench.records.record import Fields
from fp_bench.suites.fidelity import Fidelity

T = TypeVar("T")
LONG_CALL = 5e11
"""Dense products of Q and K that take about twenty seconds on two cores."""


@dataclass(frozen=True)
class Setup:
    """The facts of a run that a worker needs: its method, and what is asked of it."""

    spec: Spec
    request: LatencyRequest
    device: str
    code_version: str
    """Version of the code that planned the run; a later process may find other code on disk."""
    threads: int | None = None
    """Threads of the process; None: torch's default."""
    share: float = 1.0
    """Share of the device's memory, for an engine that reserves it."""

    @property
    def model(self) -> str:
        """The model whose prefill is timed; empty of single calls."""
        return self.request.model or ""

    def text(self) -> str:
        """Return the text that the model reads; empty where it reads generated sentences.

        Raises:
            UnavailableError: its file cannot be read.
        """
        return Fidelity.of_file(self.request.text).text()


@dataclass(frozen=True)
class Found:
    """Result of checking a method on a call."""

    fields: Fields
    """Of each of its records."""
    maps: Sequence[KeptMap] = ()
    """Of what its selection kept; none of a model's prefill, which has too many heads."""


class StepWorker(ABC):
    """The steps of a worker process, each as an answer that may be a failure."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._device = torch.device(setup.device)
        self._method: Method | None = None
        self._kernels = DenseKernels()

    def load(self) -> Answer[None]:
        """Bring up what is measured, unless it is there."""
        return self._attempt(self._load)

    def check(self, shape: Shape, layer: int, decided: Mapping[str, str] | None = None) -> Answer[Found]:
        """Make the inputs or the prompt, and run once; they are kept for `measure`.

        Args:
            shape: of the inputs.
            layer: the same.
            decided: kernels of dense attention that the run has decided on (`DenseKernels`).
        """

        def check() -> Found:
            self._kernels.follow(decided or {})
            found = self._check(shape, layer)
            return replace(found, fields=found.fields | {"dense_kernels": self._kernels.used or None})

        return self._attempt(check)

    def measure(self, effort: Effort) -> Answer[Fields]:
        """Time one round on what the last `check` kept; return what its record says of it."""
        return self._attempt(partial(self._measure, effort))

    @abstractmethod
    def release(self, everything: bool = True) -> None:
        """Free the memory of the inputs or the prompt, or also of the model, which must then be loaded again."""

    @abstractmethod
    def _load(self) -> None: ...

    @abstractmethod
    def _check(self, shape: Shape, layer: int) -> Found: ...

    @abstractmethod
    def _measure(self, effort: Effort) -> Fields: ...

    @abstractmethod
    def _forget(self) -> None:
        """Drop what a failed step may have broken."""

    def _attempt(self, step: Callable[[], T]) -> Answer[T]:
        return attempt(step, self._device, self._forget)


class MethodWorker(StepWorker):
    """One method with the inputs it was last checked on.

    Every worker makes the inputs itself: they are deterministic, so each sees the same numbers, and none shares
    memory with one that may crash.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._timer: WallClock | None = None
        self._ready: Checked | None = None

    def release(self, everything: bool = True) -> None:
        """Free the memory of the inputs."""
        del everything
        if self._ready is not None:
            self._forget()
            collect_and_free()

    def _load(self) -> None:
        if self._method is not None:
            return
        use_device(self._device, self._setup.threads)
        self._method = create_method(self._setup.spec, self._setup.request.backend)
        check_code(self._setup.code_version, type(self._method))
        self._timer = timer_for(self._device)

    def _check(self, shape: Shape, layer: int) -> Found:
        if self._method is None or self._timer is None:
            raise RuntimeError("check comes after load")
        self.release()
        asked = self._setup.request
        source, dtype = open_inputs(asked.inputs), parse_dtype(asked.dtype)
        q, k, v = source.tensors(shape, layer=layer, seed=asked.seed, dtype=dtype, device=self._device)
        scale, layers = shape.head_dim**-0.5, max(source.layers()) + 1
        call = AttentionCall(q, k, v, scale, layer, layers, kernels=self._kernels)
        given = source.given_index(shape, seed=asked.seed, device=self._device)
        # One row, if a call takes minutes (on a CPU).
        short = self._device.type != "cpu" or computed_entries(call, None) * shape.head_dim < LONG_CALL
        truth = dense_truth(call, asked.seed)
        ready = check(self._method, call, truth, self._timer, given, first_is_other=short)
        self._ready = replace(ready, selection=None)
        fields = asdict(ready.findings) | {"peak_bytes": ready.peak_bytes}
        return Found(fields, kept_maps(ready.selection))

    def _measure(self, effort: Effort) -> Fields:
        if self._ready is None or self._timer is None:
            raise RuntimeError("measure comes after check")
        return asdict(measure(self._ready, effort, self._timer))

    def _forget(self) -> None:
        self._ready = None
