"""What an accuracy run costs at least, before it starts: the arithmetic of its prompts at the rate of the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.benchmark import Timer

from fp_bench.machine import Machine, use_device
from fp_bench.models.load import model_config

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What configurations call the number of experts of a layer."""


def prefill_seconds(model: str, prompts: Mapping[int, int], machine: Machine, dtype: torch.dtype) -> float:
    """Return the time that dense prefill of prompts takes if all of it ran as fast as one large matrix product.

    Args:
        model: as for `fp_bench.models.load.load_model`; its weights are not loaded.
        prompts: how many of each length in tokens.
        machine: the device, on which one product is timed.
        dtype: of weights and activations.

    Raises:
        UnavailableError: the model's configuration cannot be read.
    """
    config = model_config(model)
    weights = weights_in_use(config)
    flop = sum(count * prefill_flop(config, weights, length) for length, count in prompts.items())
    return flop * _seconds_per_flop(machine, dtype)


def prefill_flop(config: Any, weights: float, length: int) -> float:
    """Return the operations of one dense prefill: two a weight and token, four a causal pair and element of a head."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    elements: int = config.num_hidden_layers * config.num_attention_heads * head_dim
    return 2 * weights * length + 2 * length * (length + 1) * elements


def weights_in_use(config: Any) -> float:
    """Return how many weights a token is multiplied with: without embeddings, of experts only those it is sent to."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
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
    use_device(machine.device)
    size = 8192 if machine.gpu else 1024
    a = torch.ones(size, size, device=machine.device, dtype=dtype)
    return Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads()).timeit(2).median / (2 * size**3)
