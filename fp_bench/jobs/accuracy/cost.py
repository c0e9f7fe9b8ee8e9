"""What an accuracy run costs at least, before it starts: the arithmetic of its prompts at the rate of the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.benchmark import Timer

from fp_bench.jobs.failures import yardstick
from fp_bench.jobs.machine import Machine
from fp_bench.models.load import model_config

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What configurations call the number of experts of a layer."""


def prefill_seconds(model: str, prompts: Mapping[int, int], machine: Machine, dtype: torch.dtype) -> float | None:
    """Return the time that dense prefill of prompts takes if all of it ran as fast as one large matrix product.

    None for models that the arithmetic does not hold for: without attention heads, or of no causal family that
    transformers builds from the configuration of the text part alone.

    Args:
        model: as for `fp_bench.models.load.load_model`; its weights are not loaded.
        prompts: how many of each length in tokens.
        machine: the device, on which one product is timed.
        dtype: of weights and activations.

    Raises:
        UnavailableError: the model's configuration cannot be read.
    """
    config = model_config(model)
    weights = weights_in_use(config) if hasattr(config, "num_attention_heads") else None
    if weights is None:
        return None
    flop = sum(count * prefill_flop(config, weights, length) for length, count in prompts.items())
    return flop * _seconds_per_flop(machine, dtype)


def prefill_flop(config: Any, weights: float, length: int) -> float:
    """Return the operations of one dense prefill: two a weight and token, four a causal pair and element of a head."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    elements: int = config.num_hidden_layers * config.num_attention_heads * head_dim
    return 2 * weights * length + 2 * length * (length + 1) * elements


def weights_in_use(config: Any) -> float | None:
    """Return how many weights a token is multiplied with: without embeddings, of experts only those it is sent to.

    None where transformers has no causal language model of this configuration.
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
    # Many CPUs multiply bfloat16 at 1 GFLOP/s: a larger product would take longer than the run that it is to foretell.
    size = 8192 if machine.gpu else 512
    with yardstick(machine.device):
        a = torch.ones(size, size, device=machine.device, dtype=dtype)
        timer = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
        return timer.timeit(2).median / (2 * size**3)
