"""Paged prefill in plain torch: each sequence's pages are gathered, then the single-sequence operators run."""

from dataclasses import replace

from torch import Tensor

from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.pooling import pool_keys


def flash_prefill_paged_torch(
    q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, rule: KeepRule, scale: float, out: Tensor
) -> None:
    """Fill ``out`` as `paged.flash_prefill_paged` does."""
    for sequence in batch.sequences:
        queries, keys, values = q[None, sequence.queries], sequence.gather(k), sequence.gather(v)
        own = rule if sequence.last_chunk else replace(rule, last_full_blocks=0)
        pooled = pool_keys(keys, backend="torch")
        index = select_blocks(queries, pooled, own, kv_len=sequence.kv_len, scale=scale, backend="torch")
        out[sequence.queries] = block_sparse_attention(queries, keys, values, index, scale=scale, backend="torch").out[
            0
        ]
