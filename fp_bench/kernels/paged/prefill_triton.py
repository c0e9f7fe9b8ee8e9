"""Paged prefill in Triton: three launches for a whole batch."""

from torch import Tensor

from fp_bench.kernels.paged.attention_triton import attend_paged
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.paged.discovery_triton import select_paged_blocks
from fp_bench.kernels.paged.pooling_triton import pool_paged_keys
from fp_bench.kernels.rule import KeepRule


def flash_prefill_paged_triton(
    q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, rule: KeepRule, scale: float, out: Tensor
) -> None:
    """Fill ``out`` as `prefill.flash_prefill_paged` does."""
    lists = select_paged_blocks(q, pool_paged_keys(k, batch), batch, rule, scale)
    attend_paged(q, k, v, batch, lists, scale, out)
