"""The definition of paged prefill: the single-sequence definition, sequence by sequence, over gathered keys."""

from dataclasses import replace

import torch
from torch import Tensor

from fp_bench.kernels.attention import reference
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.pooling import reference as defined_pooling


def flash_prefill_paged(q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, rule: KeepRule, *, scale: float) -> Tensor:
    """Return ``[tokens, q_heads, head_dim]`` float32; arguments as `paged.flash_prefill_paged`.

    Rows of ``q`` that belong to no sequence are 0.
    """
    out = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
    for sequence in batch.sequences:
        queries, keys, values = q[None, sequence.queries], sequence.gather(k), sequence.gather(v)
        own = rule if sequence.last_chunk else replace(rule, last_full_blocks=0)
        pooled = defined_pooling.pool_keys(keys)
        index = defined_selection.select_blocks(queries, pooled, own, kv_len=sequence.kv_len, scale=scale)
        out[sequence.queries] = reference.attention(queries, keys, values, scale=scale, index=index).out[0]
    return out
