"""The accuracy job's worker with the model in vLLM: one engine, in which methods take turns."""

from types import SimpleNamespace
from typing import Any

from fp_bench.errors import UnsupportedError
from fp_bench.jobs.accuracy.answer import stop_tokens
from fp_bench.jobs.accuracy.worker import ModelWorker, Reply
from fp_bench.jobs.machine import parse_dtype
from fp_bench.jobs.values import engine_arguments
from fp_bench.methods.base import Method
from fp_bench.models.load import model_facts, model_source
from fp_bench.models.vllm_engine import VllmEngine
from fp_bench.suites.sample import Sample


class EngineModelWorker(ModelWorker):
    """A model in vLLM that answers samples; it returns tokens, no distributions."""

    _engine: VllmEngine

    def _load_model(self) -> None:
        asked = self._setup.request
        self._engine = VllmEngine(
            asked.model,
            device=self._device,
            dtype=parse_dtype(asked.dtype),
            longest=max(asked.lens) + (asked.thinking_tokens or 0),
            share=self._setup.share,
            arguments=engine_arguments(asked.engine_args),
        )
        facts = model_facts(asked.model)
        self._positions = facts.positions
        self._read(facts.tokenizer)
        self._stop = stop_tokens(SimpleNamespace(generation_config=_generation(asked.model)), facts.tokenizer)

    def _reply(self, sample: Sample, method: Method, prompt: list[int], stop: set[int]) -> Reply:
        if not sample.answers:
            raise UnsupportedError("the suite needs next-token distributions, which vLLM does not give; use hf")
        self._engine.use(method, measure_selection=True)
        tokens = self._engine.generate(prompt, sample.max_new_tokens, stop=stop, least=1 if sample.stop else 0)
        return Reply(self._engine.counts(), tokens)


def _generation(model: str) -> Any:
    """Return a model's generation settings; None if it has none."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model_source(model))
    except OSError:
        return None
