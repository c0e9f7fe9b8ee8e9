"""Time to first token: the worker process that times a model's prefill with one method."""

import secrets
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from fp_bench.inputs.source import Shape
from fp_bench.jobs.failures import IncorrectError, collect_and_free
from fp_bench.jobs.held import HeldPrefill
from fp_bench.jobs.latency.measure import MIN_SAMPLES, Effort
from fp_bench.jobs.latency.timers import Event, WallClock, synchronize
from fp_bench.jobs.latency.worker import Found, Setup, StepWorker
from fp_bench.jobs.machine import parse_dtype, use_device
from fp_bench.methods.base import Method
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.methods.registry import create_method
from fp_bench.models.attention import SparsePrefill
from fp_bench.models.load import load_model
from fp_bench.models.loading.silence import no_progress_bars
from fp_bench.models.written_prompt import some_tokens
from fp_bench.records.environment import check_code
from fp_bench.records.record import Fields

T = TypeVar("T")


def first_token_times(clock: WallClock, samples: Sequence[float]) -> Fields:
    """Return what a record says of the times to first token of one round, in milliseconds."""
    return {
        "timer": clock.clock,
        "cache": clock.cache,
        "samples_ms": [round(sample, 4) for sample in samples],
        "median_ms": median(samples),
        "ttft_ms": median(samples),
    }


class PrefillWorker(StepWorker):
    """A model with its prefill attention swapped for one method, and a prompt that begins elsewhere at each call.

    Time to first token runs from token ids on the device to the first new token on the host, without tokenization
    and without a server.
    """

    IMPORTS: ClassVar = ("fp_bench.models.loading.imports",)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._model: Any = None
        self._tokenizer: Any = None
        self._ids: Tensor | None = None
        self._layers: list[int] = []
        """Those that the method computes."""

    def release(self, everything: bool = True) -> None:
        """Free the memory of the prompt, or also of the model, which must then be loaded again."""
        self._ids = None
        if everything:
            self._model = None
        collect_and_free()

    def _load(self) -> None:
        setup = self._setup
        if self._method is None:
            use_device(self._device, setup.threads)
            self._method = create_method(setup.spec, setup.request.backend)
            check_code(setup.code_version, type(self._method))
        if self._model is None:
            no_progress_bars()
            dtype = parse_dtype(setup.request.dtype)
            self._model, self._tokenizer = load_model(setup.model, device=self._device, dtype=dtype)

    def _check(self, shape: Shape, _layer: int) -> Found:
        self._ids = None
        if self._method is None or self._model is None:
            raise RuntimeError("check comes after load")
        vocabulary = self._model.config.get_text_config().vocab_size
        setup = self._setup
        ids = some_tokens(self._tokenizer, shape.seq_len, setup.request.seed, vocabulary=vocabulary, text=setup.text())
        self._ids = torch.tensor([ids], device=self._device)
        with SparsePrefill(self._model, self._method, kernels=self._kernels) as prefill:
            self._prefill()
        prefill.counts.check_reached()
        self._change()  # so that a selection that is kept from an earlier call has the recall of one
        with HeldPrefill(self._model, self._method, None, measure_selection=True, kernels=self._kernels) as prefill:
            logits = self._prefill()
        self._layers = [number for number, calls in prefill.counts.layers.items() if calls.kernels]
        if not bool(torch.isfinite(logits).all()):
            raise IncorrectError("the logits of the first token are not all finite")
        return Found(prefill.counts.fields(self._method.name) | {"peak_bytes": self._peak_bytes()})

    def _peak_bytes(self) -> int | None:
        """Return the peak device memory of a prefill beyond weights and prompt; None on the CPU."""
        if self._device.type != "cuda":
            return None
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        assert self._method is not None
        with SparsePrefill(self._model, self._method, kernels=self._kernels):
            self._first_token()
        return torch.cuda.max_memory_allocated(self._device) - before

    def _measure(self, effort: Effort) -> Fields:
        assert self._method is not None
        clock, count = WallClock(), effort.samples or MIN_SAMPLES

        def timed(count: int) -> list[float]:
            assert self._method is not None
            with SparsePrefill(self._model, self._method, kernels=self._kernels):
                # The token comes to the host, so the wall clock includes all of the device's work.
                return clock.samples(self._first_token, count, before=self._change)

        # One call more is watched instead of timed; nothing foretells which.
        drawn = secrets.randbelow(count + 1)
        samples = timed(drawn)
        self._change()
        layer = secrets.choice(self._layers) if self._layers else None
        with Watched(self._model, self._method, self._device, layer, self._kernels) as watched:
            self._first_token()
        samples += timed(count - drawn)
        return first_token_times(clock, samples) | {"attention_ms": watched.milliseconds()}

    def _change(self, _number: int = 0) -> None:
        assert self._ids is not None
        self._ids = turned(self._ids)

    def _first_token(self) -> int:
        return int(self._prefill().argmax())

    @torch.no_grad()
    def _prefill(self) -> Tensor:
        """Return the logits of the first new token, with the KV cache for decoding."""
        logits: Tensor = self._model(input_ids=self._ids, use_cache=True, logits_to_keep=1).logits
        return logits[0, -1]

    def _forget(self) -> None:
        self._ids = self._model = None


def turned(ids: Tensor) -> Tensor:
    """Return a prompt that begins elsewhere after its first token: as much work, and an answer from memory is wrong."""
    rest = ids[..., 1:]
    by = 1 + secrets.randbelow(max(1, rest.shape[-1] - 1))  # less than once around
    return torch.cat([ids[..., :1], rest.roll(by, -1)], -1)


class Watched(HeldPrefill):
    """Takes the time of every attention call of a model, by the method or dense."""

    def __init__(
        self, model: Any, method: Method, device: torch.device, layer: int | None, kernels: DenseKernels | None = None
    ) -> None:
        super().__init__(model, method, layer, kernels=kernels)
        self._device = device
        self._marks: list[Any] = []

    def _attention(self, *call: Any, **options: Any) -> tuple[Tensor, None]:
        """Compute one attention call between two marks of the clock."""
        self._mark()
        found = super()._attention(*call, **options)
        self._mark()
        return found

    def milliseconds(self) -> float:
        """Return the time of all calls together."""
        starts, ends = self._marks[::2], self._marks[1::2]
        if self._device.type != "cuda":
            return float(sum(end - start for start, end in zip(starts, ends, strict=True)) * 1e3)
        synchronize(self._device)
        return sum(float(start.elapsed_time(end)) for start, end in zip(starts, ends, strict=True))

    def _mark(self) -> None:
        if self._device.type != "cuda":
            self._marks.append(perf_counter())
            return
        event = Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)
