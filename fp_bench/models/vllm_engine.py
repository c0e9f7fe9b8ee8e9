"""A vLLM engine whose prefill attention can switch between methods.

Its scheduler runs in this process, and so does its model on one GPU. On several (``tensor_parallel_size``), vLLM starts
a process for each rank and sends it what `LLM.apply_model` is given, so that all that touches the model is a function
here: it can be pickled, and its result too.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable, Mapping
from functools import cache, partial, reduce
from typing import Any

import torch
from torch import Tensor

from fp_bench.errors import UnavailableError, UnsupportedError, UsageError
from fp_bench.methods.base import Method
from fp_bench.methods.dense import Dense
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models.calls import CallCounts
from fp_bench.models.load import model_config, model_source
from fp_bench.models.serving import PagedPrefill
from fp_bench.models.spec import RANDOM, ModelSpec
from fp_bench.models.vllm_plugin import register, vllm_problem

MEMORY = 0.9
"""Share of the device's memory, divided among the engines on it."""
DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


def check_engine(name: str, dtype: str, model: str = "", arguments: Mapping[str, Any] | None = None) -> None:
    """Refuse an unknown or missing engine.

    Args:
        name: ``hf`` or ``vllm``.
        dtype: of the run, as on the command line.
        model: that it runs.
        arguments: of vLLM's engine.

    Raises:
        UsageError: another name, or an unsupported dtype or model.
        UnavailableError: it is not installed, or there is no GPU or too few.
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
    _check_model(model)
    ranks = (arguments or {}).get("tensor_parallel_size", 1)
    if not (isinstance(ranks, int) and ranks > 0):
        raise UsageError(f"--engine-arg tensor_parallel_size={ranks}: give a number of GPUs")
    if ranks > 1 and ranks > (visible := torch.cuda.device_count()):
        raise UnavailableError(f"--engine-arg tensor_parallel_size={ranks}: {visible} GPUs are visible here")


def _check_model(model: str) -> None:
    spec = ModelSpec.parse(model)
    if spec.query or spec.gguf is not None:
        raise UsageError(f"--engine vllm reads no GGUF files and no changed keys, as {model!r}; use --engine hf")


class VllmEngine:
    """A model in vLLM with vLLM's defaults, except prefix caching, which is off because prompts repeat.

    Dense attention is vLLM's own FlashAttention in the same engine, so methods differ only in attention.

    Args:
        model: as `load.load_model` names it.
        device: the first visible GPU.
        dtype: of weights and activations.
        longest: tokens of the longest prompt with its answer.
        share: of `MEMORY`, for this engine.
        arguments: of vLLM's engine, besides those set here.

    Raises:
        UsageError: another device, a GGUF file or changes to a configuration.
        UnsupportedError: no attention layer of the model goes through the backend.
    """

    def __init__(
        self,
        model: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        longest: int,
        share: float = 1.0,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if (device.index or 0) != 0:
            raise UsageError(f"--engine vllm runs on the first visible GPU, not on {device}; set CUDA_VISIBLE_DEVICES")
        _check_model(model)
        # In this process, so that attention can be swapped and counted; vLLM reads it when it is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # Of a worker process, which may otherwise start none for the ranks; its end ends them too.
        multiprocessing.current_process().daemon = False
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
            **({"load_format": "dummy"} if model.startswith(RANDOM) else {}),
            **(arguments or {}),
            attention_backend="CUSTOM",
            dtype=DTYPES[dtype],
            max_model_len=longest,
            enable_prefix_caching=False,
            gpu_memory_utilization=MEMORY * share,
        )
        layers = self._llm.apply_model(_number_of_layers)
        self._ranks = len(layers)
        if not sum(layers):
            raise UnsupportedError("no attention layer of this model runs in fp_bench's backend in vLLM")

    def use(self, method: Method, *, measure_selection: bool = False) -> None:
        """Let a method compute prefill from now on, and count its calls anew.

        Raises:
            UsageError: dense with a named implementation; here dense is vLLM's.
        """
        if isinstance(method, Dense) and method.params.impl != "auto":
            raise UsageError(f"{method.label}: with --engine vllm, dense is always vLLM's FlashAttention; write dense")
        PagedPrefill(method, self._layers)  # refused here, because a rank's error is long
        # As text, because a plug-in's method may hold what cannot be pickled.
        self._llm.apply_model(partial(_use, method.label, method.backend, self._layers, measure_selection))

    def counts(self) -> CallCounts:
        """Return the calls since `use`: means over the heads of all ranks."""
        found: list[CallCounts] = self._llm.apply_model(_counts)
        return reduce(CallCounts.joined, found, CallCounts())

    def attention_milliseconds(self, run: Callable[[], object]) -> float:
        """Return the time of all attention layers within ``run``, on the GPU; of several the slowest's."""
        self._llm.apply_model(_watch)
        try:
            run()
        finally:
            found: list[float] = self._llm.apply_model(_watched_milliseconds)
        return max(found)

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
        if self._llm is not None and self._ranks > 1:
            self._llm.llm_engine.engine_core.shutdown()  # the other processes hold it
        self._llm = None
        gc.collect()
        torch.cuda.empty_cache()


def _attention_layers(model: torch.nn.Module) -> list[Any]:
    """Return the layers of the backend in this process."""
    layers = (getattr(module, "impl", None) for module in model.modules())
    return [layer for layer in layers if hasattr(layer, "prefill")]


def _number_of_layers(model: torch.nn.Module) -> int:
    return len(_attention_layers(model))


def _use(label: str, backend: str, layers: int, measure_selection: bool, model: torch.nn.Module) -> None:
    """Let the method of a label compute the prefill of this process."""
    method = _method(label, backend)
    prefill = PagedPrefill(method, layers, measure_selection=measure_selection)
    if isinstance(method, Dense):
        prefill.counts.layer(0).kernels.add("vllm flash_attn")
    for layer in _attention_layers(model):
        layer.prefill = prefill


@cache
def _method(label: str, backend: str) -> Method:
    """Return a method, always the same one, because it may keep what it has worked out."""
    return create_method(Spec.parse(label), backend)


def _counts(model: torch.nn.Module) -> CallCounts:
    """Return the calls of this process, on the host."""
    layers = _attention_layers(model)
    return CallCounts().joined(layers[0].prefill.counts) if layers else CallCounts()


def _watch(model: torch.nn.Module) -> None:
    """Time the attention layers of this process until `_watched_milliseconds`."""

    def watched(spans: list[tuple[Any, Any]], forward: Callable[..., Tensor], *given: Any, **options: Any) -> Tensor:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        out = forward(*given, **options)
        end.record()
        spans.append((start, end))
        return out

    for layer in _attention_layers(model):
        layer.spans = []
        layer.forward = partial(watched, layer.spans, layer.forward)


def _watched_milliseconds(model: torch.nn.Module) -> float:
    """Return the time of the attention layers of this process since `_watch`, and end it."""
    torch.cuda.synchronize()
    spans = []
    for layer in _attention_layers(model):
        del layer.forward  # the class has the one before
        spans += vars(layer).pop("spans")
    return sum(float(start.elapsed_time(end)) for start, end in spans)
