"""Toy models of the causal architectures that transformers knows, and what sparse prefill makes of each."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fp_bench.errors import UnsupportedError
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.models.attention import SparsePrefill
from fp_bench.models.calls import CallCounts

LENGTH = 300
MOST_WEIGHTS = 30_000_000
SIZES: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "sliding_window": 100, "n_embd": 128, "n_layer": 2,
    "n_head": 2, "n_positions": 2048, "mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 16, "mamba_expand": 2,
    "mamba_n_groups": 1, "mamba_chunk_size": 64,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 2, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32,
    "qk_head_dim": 64, "v_head_dim": 64, "index_topk": 16, "index_head_dim": 64, "index_n_heads": 2,
}  # fmt: skip
FOUR_LAYERS = {"num_hidden_layers": 4}
"""Of hybrids, whose last layer of four has attention."""
SELECTS = {
    "layer_types": ["linear_attention", "qwen_sparse_attention"], "indexer_n_heads": 2, "indexer_kv_heads": 1,
    "indexer_head_dim": 64, "indexer_budget": 16, "indexer_compress_ratio": 4,
}  # fmt: skip
SPECIAL: dict[str, dict[str, Any]] = {
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"], "index_block_size": 16, "index_topk_blocks": 4,
        "index_n_heads": 1, "index_head_dim": 64,
    },
    "deepseek_v4": {
        "layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"], "index_topk": 16,
        "q_lora_rank": 32,
    },
    "hy_v4": {"index_topk": 16},
    "olmoe": {"sliding_window": None},  # no key of its own: its eager attention has no window
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), FOUR_LAYERS),
    "qwen4_exp": SELECTS,
    "qwen4_exp_text": SELECTS,
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"]},
    "mamba2": {"num_heads": 4, "state_size": 16, "n_groups": 1, "chunk_size": 64},
}  # fmt: skip


class NotBuilt(Exception):
    """A toy model of this architecture cannot be made, or does not run."""


def toy(architecture: str) -> tuple[Any, Tensor, Tensor]:
    """Return a toy model that runs eager, a prompt and its logits.

    Raises:
        NotBuilt: none of the sizes that are tried suits the architecture.
    """
    problem = ""
    special = SPECIAL.get(architecture, {})
    for sizes in (SIZES | special, SIZES | LATENT | special):
        for options in (sizes, {"text_config": sizes}):
            try:
                return _built(CONFIG_MAPPING[architecture](**options))
            except Exception as error:
                problem = problem or f"{type(error).__name__}: {error}"
    raise NotBuilt(problem)


def _built(config: Any) -> tuple[Any, Tensor, Tensor]:
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > MOST_WEIGHTS:
        raise NotBuilt(f"{weights} weights")
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    # Large weights, so that attention is far from uniform and a wrong mask shows.
    for name, weight in model.named_parameters():
        if "proj" in name and weight.dim() == 2:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    ids = torch.randint(3, 128, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    expected = run(model, ids)
    if not expected.isfinite().all():
        raise NotBuilt("its logits are not finite")
    return model, ids, expected


@torch.no_grad()
def run(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


def through_method(model: Any, ids: Tensor) -> tuple[Tensor, CallCounts] | str:
    """Return the logits under a method that keeps everything and the calls, or the line of a refusal."""
    try:
        with SparsePrefill(model, FlashPrefill.from_options({"alpha": 0}, backend="torch")) as prefill:
            return run(model, ids), prefill.counts
    except UnsupportedError as error:
        return str(error)
