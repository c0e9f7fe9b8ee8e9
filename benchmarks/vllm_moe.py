"""Time to first token of Qwen3-30B-A3B's whole shape in vLLM's offline engine, with random weights, on one GPU.

``python -m benchmarks.vllm_moe --methods own --out RUN`` measures vLLM's own attention, in an engine without the
plug-in; ``--methods dense flashprefill@0.26 flashprefill@0.05`` the plug-in's, which take turns in one engine. No CUDA
graphs, no prefix caching, prompts of random tokens, each new; by default the longest prompt fits one chunk.

A layer's attention with random weights is not a trained model's: only the time at a given density means something. So
``flashprefill@0.26`` searches the alpha that keeps 26 %, for each length, in the first of three layers, on a prompt of
its own that runs at `SEARCHED_AT`; densities are that prompt's, ``density`` their mean. Norms are 1, those of Q and K
`GAIN`, and embeddings are multiplied by `EMBEDDING`, so that blocks differ in energy and a share can be kept at all.

``ttft_s`` is the median of the rounds: from token ids on the host to the first new token there. Up to `LONG` each
method has one warm-up. Above it there is one round without, and ``dense`` is skipped; the prompts of the searches still
run first.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench import Rows
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models.serving import VARIABLE, PagedPrefill
from fp_bench.models.vllm_plugin import vllm_problem
from fp_bench.sizes import parse_length, parse_lengths

CONFIG = Path(__file__).parent / "models" / "qwen3-30b-a3b-4-layers" / "config.json"
LAYERS = 48
GAIN, EMBEDDING = 4.0, 1000.0
LONG = 131072
SEARCHED_AT = "flashprefill:alpha=0.9"
MOST_ALPHA, HALVINGS = 1.001, 14
"""Upper end and steps of the search."""
MEMORY = 0.88
Figures = dict[str, int | float | str | None]


def write_config(folder: Path, layers: int, longest: int) -> None:
    """Write the configuration that vLLM reads: the published one with other layers and enough positions."""
    config = json.loads(CONFIG.read_text())
    positions = max(config["max_position_embeddings"], longest)
    changed = {"num_hidden_layers": layers, "max_window_layers": layers, "max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config | changed))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": config["eos_token_id"]}))


def set_weights(model: torch.nn.Module) -> int:
    """Set the norms and enlarge the embeddings; return how many norms there are."""
    norms = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(GAIN if "q_norm" in name or "k_norm" in name else 1.0)
                norms += 1
            elif "embed_tokens" in name:
                parameter.mul_(EMBEDDING)  # far above the norm's epsilon
    return norms


def put(prefill: PagedPrefill, model: torch.nn.Module) -> int:
    """Let the plug-in's layers prefill with this; return how many there are."""
    layers: list[Any] = [getattr(module, "impl", None) for module in model.modules()]
    layers = [layer for layer in layers if hasattr(layer, "prefill")]
    for layer in layers:
        layer.prefill = prefill
    return len(layers)


def prefill_of(label: str, layers: int) -> PagedPrefill:
    """Return a method over pages."""
    return PagedPrefill(create_method(Spec.parse(label)), layers)


def density(label: str, call: AttentionCall) -> float:
    """Return the share that a method keeps of a call."""
    index = create_method(Spec.parse(label)).select(call)
    return 1.0 if index is None else float(index.density().float().mean())


def label_of(alpha: float) -> str:
    """Return FlashPrefill at an alpha, as its records name it."""
    return f"flashprefill:alpha={alpha:.6f}"


def searched_alpha(call: AttentionCall, share: float) -> float:
    """Return the alpha at which FlashPrefill keeps this share of a call, or the least that it can."""
    low, high = 0.0, MOST_ALPHA
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if density(label_of(middle), call) > share else (low, middle)
    return round((low + high) / 2, 6)


class Probe(PagedPrefill):
    """A method that measures what it keeps of a prompt in some layers; with a share it searches alpha in the first.

    Args:
        label: the method.
        layers: of the model.
        length: of the prompt; a chunk that does not end it is not measured.
        share: to keep.
    """

    def __init__(self, label: str, layers: int, length: int, share: float | None = None) -> None:
        super().__init__(create_method(Spec.parse(label)), layers)
        self.label = label
        self.alpha: float | None = None
        """Found by the search."""
        self.densities: dict[int, float] = {}
        self._probed = {layers // 6, layers // 2, layers * 5 // 6}
        self._length = length
        self._share = share

    def fill(
        self, q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, out: Tensor, *, scale: float, layer: int
    ) -> None:
        """Compute the attention, then measure."""
        super().fill(q, k, v, batch, out, scale=scale, layer=layer)
        (sequence,) = batch.sequences
        if layer not in self._probed or sequence.kv_len != self._length:
            return
        call = self.call_of(sequence, q, k, v, scale=scale, layer=layer)
        if self._share is not None and self.alpha is None:
            self.alpha = searched_alpha(call, self._share)
            self.label = label_of(self.alpha)
        self.densities[layer] = density(self.label, call)


class Engine:
    """vLLM with the model's weights.

    Args:
        own: with vLLM's own attention instead of the plug-in's.
        layers: of the model.
        longest: tokens of the longest prompt.
        chunk: most tokens a step.
    """

    def __init__(self, *, own: bool, layers: int, longest: int, chunk: int) -> None:
        # In this process, so that attention can be swapped; vLLM reads both when it is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ[VARIABLE] = "dense"
        from vllm import LLM, SamplingParams

        self.own, self.layers, self.chunk = own, layers, chunk
        self._folder = tempfile.TemporaryDirectory()  # as long as the engine, which may read it again
        write_config(Path(self._folder.name), layers, longest + 64)
        self._llm: Any = LLM(
            self._folder.name,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=longest + 64,
            max_num_batched_tokens=chunk,
            max_num_seqs=2,
            enable_prefix_caching=False,
            enforce_eager=True,
            gpu_memory_utilization=MEMORY,
            seed=0,
            **({} if own else {"attention_backend": "CUSTOM"}),
        )
        self._llm.apply_model(set_weights)
        self._sampling = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False)
        self._drawn = random.Random(1)

    def use(self, prefill: PagedPrefill) -> None:
        """Let this compute prefill from now on."""
        (count,) = self._llm.apply_model(partial(put, prefill))
        assert count == self.layers, f"the plug-in has {count} layers of {self.layers}"

    def first_token(self, length: int) -> float:
        """Return the seconds to the first token of a new prompt."""
        from vllm import TokensPrompt

        ids = [self._drawn.randrange(1000, 150000) for _ in range(length)]
        torch.cuda.synchronize()
        start = time.perf_counter()
        self._llm.generate([TokensPrompt(prompt_token_ids=ids)], self._sampling, use_tqdm=False)
        return time.perf_counter() - start


def prepared(engine: Engine, method: str, length: int) -> tuple[PagedPrefill | None, Figures]:
    """Return the prefill of a method, None if vLLM's own, and what it keeps; search, and warm up."""
    kept: Figures = {"density": 1.0, "density_by_layer": None, "alpha": None}
    prefill = None
    if not engine.own:
        label = method
        if method != "dense":
            name, _, share = method.partition("@")
            probe = Probe(SEARCHED_AT if share else name, engine.layers, length, float(share) if share else None)
            engine.use(probe)
            engine.first_token(length)
            by_layer = ", ".join(f"{layer}: {found:.4f}" for layer, found in sorted(probe.densities.items()))
            mean = round(statistics.fmean(probe.densities.values()), 4)
            kept = {"density": mean, "density_by_layer": by_layer, "alpha": probe.alpha}
            label = probe.label
        prefill = prefill_of(label, engine.layers)
        engine.use(prefill)
    if length <= LONG:
        engine.first_token(length)
    return prefill, kept


def measured(engine: Engine, methods: list[str], length: int, rounds: int) -> dict[str, Figures]:
    """Return the figures of each method at a length; methods take turns, every other round from the last on."""
    ready = {name: prepared(engine, name, length) for name in methods if name != "dense" or length <= LONG}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(rounds if length <= LONG else 1):
        for name in list(ready)[:: -1 if turn % 2 else 1]:
            prefill, _ = ready[name]
            if prefill is not None:
                engine.use(prefill)
            times[name].append(engine.first_token(length))
    return {name: figures(engine, times[name], *ready[name]) for name in ready}


def figures(engine: Engine, times: list[float], prefill: PagedPrefill | None, kept: Figures) -> Figures:
    """Return what a record says."""
    kernels = sorted(prefill.counts.kernels) if prefill is not None else []
    rounds = " ".join(f"{seconds:.6g}" for seconds in times)
    kernel = ", ".join(kernels) or "vllm flash_attn"  # which computes what the plug-in leaves
    return {"ttft_s": statistics.median(times), "rounds": rounds, **kept, "kernel": kernel, "chunk": engine.chunk}


def row_label(method: str) -> str:
    """Return a method as records name it: ``flashprefill at 0.26``, whose alpha is a figure."""
    return "dense of vLLM" if method == "own" else method.replace("@", " at ")


def main() -> None:
    """Write one row a length and method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm_moe")
    parser.add_argument("--methods", nargs="+", default=["own"], help="own, or methods of the plug-in")
    parser.add_argument("--lens", type=parse_lengths, default="32k,64k,128k,256k", help="lengths of prompts")
    parser.add_argument("--rounds", type=int, default=2, help="times each method at a length")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the model")
    parser.add_argument("--chunk", type=parse_length, help="most tokens a step; by default the longest prompt")
    parser.add_argument("--out", type=Path, default=Path("runs/vllm_moe"), help="run folder")
    options = parser.parse_args()
    own = options.methods == ["own"]
    if "own" in options.methods and not own:
        parser.error("own needs an engine without the plug-in: --methods own, in another run")
    if wrong := [name for name in options.methods if "@" in name and not name.startswith("flashprefill@")]:
        parser.error(f"{wrong[0]}: only the alpha of flashprefill is searched")
    if (problem := vllm_problem()) is not None:
        parser.error(problem)
    longest = max(options.lens)
    chunk = min(options.chunk or longest, longest)
    engine = Engine(own=own, layers=options.layers, longest=longest, chunk=chunk)
    rows = Rows("vllm_moe", torch.device("cuda"), options.out)
    for length in options.lens:
        for method, found in measured(engine, options.methods, length, options.rounds).items():
            rows.row(row_label(method), length, partial(dict, found), engine="vllm", layers=options.layers)


if __name__ == "__main__":
    main()
