"""A vLLM engine in this process whose prefill attention can switch between methods."""

import gc
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.methods.base import Method
from fp_bench.methods.dense import Dense
from fp_bench.models.calls import CallCounts
from fp_bench.models.load import model_config, model_source
from fp_bench.models.serving import PagedPrefill
from fp_bench.models.spec import RANDOM, ModelSpec
from fp_bench.models.vllm_plugin import register, vllm_problem

MEMORY = 0.9
"""Share of the device's memory, divided among the engines on it."""
DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


def check_engine(name: str, dtype: str) -> None:
    """Refuse an unknown or missing engine.

    Args:
        name: ``hf`` or ``vllm``.
        dtype: of the run, as on the command line.

    Raises:
        UsageError: another name, or an unsupported dtype.
        UnavailableError: it is not installed, or there is no GPU.
    """
    if name not in ("hf", "vllm"):
        raise UsageError(f"unknown engine {name!r}; write hf, vllm or openai:URL")
    if name == "hf":
        return
    if (problem := vllm_problem()) is not None:
        raise UnavailableError(f"--engine vllm: {problem}")
    if not torch.cuda.is_available():
        raise UnavailableError("--engine vllm: there is no GPU here; --engine hf runs on a CPU")
    if dtype not in ("bf16", "fp16"):
        raise UsageError(f"--engine vllm takes --dtype bf16 or fp16, not {dtype}")


class VllmEngine:
    """A model in vLLM with vLLM's defaults, except prefix caching, which is off because prompts repeat.

    Dense attention is vLLM's own FlashAttention in the same engine, so methods differ only in attention.

    Args:
        model: as `load.load_model` names it.
        device: the first visible GPU.
        dtype: of weights and activations.
        longest: tokens of the longest prompt with its answer.
        share: of `MEMORY`, for this engine.

    Raises:
        UsageError: another device, a GGUF file or changes to a configuration.
    """

    def __init__(
        self, model: str, *, device: torch.device, dtype: torch.dtype, longest: int, share: float = 1.0
    ) -> None:
        if (device.index or 0) != 0:
            raise UsageError(f"--engine vllm runs on the first visible GPU, not on {device}; set CUDA_VISIBLE_DEVICES")
        spec = ModelSpec.parse(model)
        if spec.query or spec.gguf is not None:
            raise UsageError(f"--engine vllm reads no GGUF files and no changed keys, as {model!r}; use --engine hf")
        # In this process, so that attention can be swapped and counted; vLLM reads it when it is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        config = model_config(model)
        if longest - 1 == getattr(config, "max_position_embeddings", None):
            # vLLM counts the last new token, although nothing is computed for it, so no position exceeds the model's.
            os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
        register()
        from vllm import LLM

        self._layers: int = config.num_hidden_layers
        self._llm: Any = LLM(
            str(model_source(model.removeprefix(RANDOM))),
            skip_tokenizer_init=True,
            load_format="dummy" if model.startswith(RANDOM) else "auto",
            attention_backend="CUSTOM",
            dtype=DTYPES[dtype],
            max_model_len=longest,
            enable_prefix_caching=False,
            gpu_memory_utilization=MEMORY * share,
        )

    def use(self, method: Method, *, measure_selection: bool = False) -> CallCounts:
        """Let a method compute prefill from now on; return the counts of its calls, updated as they come.

        Raises:
            UsageError: dense with a named implementation; here dense is vLLM's.
        """
        if isinstance(method, Dense) and method.params.impl != "auto":
            raise UsageError(f"{method.label}: with --engine vllm, dense is always vLLM's FlashAttention; write dense")
        prefill = PagedPrefill(method, self._layers, measure_selection=measure_selection)

        for layer in self._attention_layers():
            layer.prefill = prefill
        if isinstance(method, Dense):
            prefill.counts.layer(0).kernels.add("vllm flash_attn")
        return prefill.counts

    def attention_milliseconds(self, run: Callable[[], object]) -> float:
        """Return the time of all attention layers within ``run``, on the GPU."""
        spans: list[tuple[Any, Any]] = []

        def watched(forward: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            out = forward(*arguments, **options)
            end.record()
            spans.append((start, end))
            return out

        layers = self._attention_layers()
        for layer in layers:
            layer.forward = partial(watched, layer.forward)
        try:
            run()
        finally:
            for layer in layers:
                del layer.forward  # the class has the one before
        torch.cuda.synchronize()
        return sum(float(start.elapsed_time(end)) for start, end in spans)

    def _attention_layers(self) -> list[Any]:
        """Return the layers of the backend, which vLLM keeps in this process."""

        def found(model: torch.nn.Module) -> list[Any]:
            layers = (getattr(module, "impl", None) for module in model.modules())
            return [layer for layer in layers if hasattr(layer, "prefill")]

        (layers,) = self._llm.apply_model(found)
        return list(layers)

    def generate(self, ids: list[int], new: int, *, stop: set[int] | None = None, least: int = 0) -> list[int]:
        """Return the tokens of greedy decoding, without the first of ``stop``.

        Args:
            ids: the prompt.
            new: largest number of tokens; without ``stop`` the exact number.
            stop: tokens that end an answer.
            least: fewest tokens of an answer.
        """
        from vllm import SamplingParams, TokensPrompt

        asked = SamplingParams(
            temperature=0.0,
            max_tokens=new,
            min_tokens=least,
            stop_token_ids=sorted(stop or ()),
            ignore_eos=True,
            detokenize=False,
        )
        (answer,) = self._llm.generate([TokensPrompt(prompt_token_ids=ids)], asked, use_tqdm=False)
        tokens = list(answer.outputs[0].token_ids)
        return next((tokens[:place] for place, token in enumerate(tokens) if token in (stop or ())), tokens)

    def close(self) -> None:
        """Give the memory back."""
        self._llm = None
        gc.collect()
        torch.cuda.empty_cache()
