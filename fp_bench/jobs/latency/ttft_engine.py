"""Time to first token in vLLM: the worker process that times one method in its own engine."""

import torch

from fp_bench.inputs.source import Shape
from fp_bench.jobs.failures import collect_and_free
from fp_bench.jobs.latency.measure import MIN_SAMPLES, Effort
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.jobs.latency.ttft import first_token_times, turned
from fp_bench.jobs.latency.worker import Found, Setup, StepWorker
from fp_bench.jobs.machine import parse_dtype
from fp_bench.jobs.values import engine_arguments
from fp_bench.methods.registry import create_method
from fp_bench.models.load import model_config, model_facts
from fp_bench.models.spec import RANDOM
from fp_bench.models.vllm_engine import VllmEngine
from fp_bench.models.written_prompt import some_tokens
from fp_bench.records.environment import check_code
from fp_bench.records.record import Fields


class EngineWorker(StepWorker):
    """A vLLM engine with its prefill attention swapped for one method, and a prompt that begins elsewhere at each call.

    Time to first token runs from token ids on the host to the first new token there, with scheduling, chunks, sampling
    and everything else in the engine, but no network.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._engine: VllmEngine | None = None
        self._ids: list[int] = []

    def release(self, everything: bool = True) -> None:
        """Shut the engine down, which must then be loaded again. Its memory is reserved, so prompts hold none."""
        if everything:
            self._forget()
            collect_and_free()

    def _load(self) -> None:
        setup = self._setup
        if self._method is None:
            self._method = create_method(setup.spec, setup.request.backend)
            check_code(setup.code_version, type(self._method))
        if self._engine is None:
            self._engine = VllmEngine(
                setup.model,
                device=self._device,
                dtype=parse_dtype(setup.request.dtype),
                longest=max(setup.request.lens) + 1,
                share=setup.share,
                arguments=engine_arguments(setup.request.engine_args),
            )

    def _check(self, shape: Shape, _layer: int) -> Found:
        setup, method = self._setup, self._method
        if method is None or self._engine is None:
            raise RuntimeError("check comes after load")
        tokenizer = None if setup.model.startswith(RANDOM) else model_facts(setup.model).tokenizer
        vocabulary = model_config(setup.model).vocab_size
        self._ids = some_tokens(tokenizer, shape.seq_len, setup.request.seed, vocabulary=vocabulary, text=setup.text())
        self._engine.use(method)
        self._first_token()
        self._change()  # as in `PrefillWorker`
        self._engine.use(method, measure_selection=True)
        self._first_token()
        found = Found(self._engine.counts().fields(method.name))
        self._engine.use(method)
        return found

    def _measure(self, effort: Effort) -> Fields:
        assert self._engine is not None
        clock = WallClock()
        samples = clock.samples(self._first_token, effort.samples or MIN_SAMPLES, before=self._change)
        self._change()
        attention_ms = self._engine.attention_milliseconds(self._first_token)
        return first_token_times(clock, samples) | {"attention_ms": attention_ms}

    def _change(self, _number: int = 0) -> None:
        self._ids = turned(torch.tensor(self._ids)).tolist()

    def _first_token(self) -> int:
        assert self._engine is not None
        return self._engine.generate(self._ids, 1)[0]

    def _forget(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None
