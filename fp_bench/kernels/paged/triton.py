"""Paged prefill in Triton, or with attention in Gluon: three launches for a whole batch."""

from torch import Tensor

from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.paged import attention_triton
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.paged.discovery_triton import PagedLists, select_paged_blocks
from fp_bench.kernels.paged.pooling_triton import pool_paged_keys


def flash_prefill_paged_triton(
    q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, rule: KeepRule, scale: float, out: Tensor
) -> None:
    """Fill ``out`` as `paged.flash_prefill_paged` does."""
    attention_triton.attend_paged(q, k, v, batch, _select(q, k, batch, rule, scale), scale, out)


def flash_prefill_paged_hopper(
    q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, rule: KeepRule, scale: float, out: Tensor
) -> None:
    """Fill ``out`` as `paged.flash_prefill_paged` does."""
    from fp_bench.kernels.paged import hopper  # Gluon, which not every Triton has

    hopper.attend_paged(q, k, v, batch, _select(q, k, batch, rule, scale), scale, out)


def _select(q: Tensor, k: Tensor, batch: PagedBatch, rule: KeepRule, scale: float) -> PagedLists:
    return select_paged_blocks(q, pool_paged_keys(k, batch), batch, rule, scale)
