"""How long a run may take, before it starts: a range, since what methods cost is what the run is to find out.

What runs took stands beside it in `tests/jobs/test_cost.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import Timer

from fp_bench.jobs.failures import yardstick
from fp_bench.jobs.latency.measure import MAX_SAMPLES, MIN_SAMPLES, Effort
from fp_bench.jobs.machine import Machine
from fp_bench.models.load import model_config

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Names of the number of experts per layer in configurations."""
SLOWEST_GPU, SLOWEST_CPU = 2.0, 15.0
"""Times of dense attention that a sparse method may take; on a CPU they are plain torch."""
DENSE = (0.5, 2.0)
"""Times of the short call that everything is estimated from; implementations of dense attention differ."""
STARTING, COMPILING, LOADING = (0.1, 3.0), (0.0, 10.0), (0.5, 60.0)
"""Seconds of a process with its imports; of what a method compiles once; of a model that is loaded."""
CHECKING, CHECKING_TOKEN = (0.1, 1.5), 5e-5
"""Seconds of inputs and definition around a check; at most so many more a token."""
UNFUSED = 4.0
"""Times of a matrix product's rate that a model's layers may take."""
ANSWER_TOKENS, TOKEN_LAYER, TOKEN_LAYER_READ = (8, 64), (0.001, 0.006), 2e-7
"""Tokens of an answer, mostly; seconds that each takes a layer, and at most so many more a token that it reads."""


class Range(NamedTuple):
    """Seconds, at least and at most."""

    least: float
    most: float


def total(parts: Iterable[Range]) -> Range:
    """Return the range of a sum."""
    found = list(parts)
    return Range(sum(part.least for part in found), sum(part.most for part in found))


def cell_seconds(effort: Effort, tokens: int, dense_call: float, *, dense: bool, gpu: bool, model: bool) -> Range:
    """Return how long measuring one cell of a latency run may take, by workers that are there.

    Args:
        effort: that it gets.
        tokens: of a sequence.
        dense_call: seconds of a dense call, estimated.
        dense: whether its method is.
        gpu: whether it runs on one.
        model: whether the call is a model's prefill.
    """
    slowest = DENSE[1] if dense else SLOWEST_GPU if gpu else SLOWEST_CPU
    fast, slow = DENSE[0] * dense_call if dense or model else 0.0, slowest * dense_call
    start = LOADING if model else STARTING
    if effort.checked_call_counts:
        return Range(fast, CHECKING[1] + CHECKING_TOKEN * tokens + 3 * slow)

    def sampled(seconds: float) -> float:
        most = MAX_SAMPLES * seconds
        fitting = max(MIN_SAMPLES * seconds, min(most, effort.sample_seconds))
        timed = effort.samples * seconds if effort.samples else fitting
        return max(effort.warm_up_seconds, seconds) + timed

    # Of a sparse method the selection and the attention are timed alone too.
    shortest = sampled(fast) + (0 if dense or model else 2 * sampled(0.0))
    longest = (1 if dense else 2) * sampled(slow) + effort.sample_seconds
    again = effort.launches - 1
    least = again * start[0] + effort.launches * (CHECKING[0] + 2 * fast) + effort.rounds * shortest
    checking = CHECKING[1] + CHECKING_TOKEN * tokens + 4 * slow
    return Range(least, again * start[1] + effort.launches * checking + effort.rounds * longest)


def start_seconds(methods: int, *, model: bool) -> Range:
    """Return how long it may take until the workers of a run are there, beside each other where there is room."""
    start = LOADING if model else STARTING
    return Range(start[0], methods * (start[1] + COMPILING[1]))


def answer_seconds(
    model: str, prompts: Mapping[int, int], machine: Machine, dtype: torch.dtype, *, methods: int, written: bool
) -> Range | None:
    """Return how long the answers of an accuracy run may take on one device.

    At least dense prefill at the rate of one large matrix product. None for models that the arithmetic does not hold
    for: without attention heads, or of no causal family that transformers builds from the configuration of the text
    part alone.

    Args:
        model: as for `fp_bench.models.load.load_model`; its weights are not loaded.
        prompts: how many of each length in tokens, of all methods together.
        machine: the device, on which one product is timed.
        dtype: of weights and activations.
        methods: how many.
        written: whether answers are written, not compared as distributions.

    Raises:
        UnavailableError: the model's configuration cannot be read.
    """
    config = model_config(model)
    weights = weights_in_use(config) if hasattr(config, "num_attention_heads") else None
    if weights is None:
        return None
    least = most = 0.0
    a_flop = _seconds_per_flop(machine, dtype)
    for length, count in prompts.items():
        layers, attention = (a_flop * part for part in prefill_flop(config, weights, length))
        tokens = [written * config.num_hidden_layers * each for each in ANSWER_TOKENS]
        least += count * (DENSE[0] * (layers + attention) + tokens[0] * TOKEN_LAYER[0])
        writing = tokens[1] * (TOKEN_LAYER[1] + TOKEN_LAYER_READ * length)
        slowest = SLOWEST_GPU if machine.gpu else SLOWEST_CPU
        most += count * (UNFUSED * (layers + slowest * attention) + writing)
    return Range(LOADING[0] + least, LOADING[1] + COMPILING[1] * methods + most)


def prefill_flop(config: Any, weights: float, length: int) -> tuple[float, float]:
    """Return the operations of one dense prefill: two per weight and token; four per causal pair and head element."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    elements: int = config.num_hidden_layers * config.num_attention_heads * head_dim
    return 2 * weights * length, 2.0 * length * (length + 1) * elements


def weights_in_use(config: Any) -> float | None:
    """Return the number of active weights per token: without embeddings, and only the chosen experts.

    None if transformers has no causal language model for this configuration.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError:
        return None
    experts = next((number for name in EXPERTS if (number := getattr(config, name, None))), 1)
    share = (getattr(config, "num_experts_per_tok", None) or experts) / experts
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    used = [
        weight.numel() * (share if ".experts." in name else 1.0)
        for name, weight in model.named_parameters()
        if id(weight) not in tables
    ]
    return float(sum(used))


def _seconds_per_flop(machine: Machine, dtype: torch.dtype) -> float:
    # Many CPUs multiply bfloat16 at 1 GFLOP/s: a larger product would take longer than the run itself.
    size = 8192 if machine.gpu else 512
    with yardstick(machine.device):
        a = torch.ones(size, size, device=machine.device, dtype=dtype)
        timer = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
        return timer.timeit(2).median / (2 * size**3)
