"""FlexPrefill's selection: the attention of the last queries decides each head's columns, diagonals or blocks."""

from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid, check_scale


def select_flex(q: Tensor, k: Tensor, rule: FlexRule, *, scale: float, backend: str = "auto") -> BlockIndex:
    """Return the key blocks that FlexPrefill keeps for each query block of each query head.

    Defined by `reference.select_blocks`. Takes three vectors of ``kv_len`` floats and ``blocks ** 2`` floats a head; on
    GPUs nothing is sorted, and nothing waits for the device.

    Args:
        q: ``[batch, kv_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``, longer than ``rule.dense_below``.
        rule: what to keep.
        scale: factor on the logits, positive.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: a chunk of a prompt, a call that is to be dense, or more key blocks than a list can name.
    """
    check_scale(scale)
    kv_len = k.shape[1]
    if q.shape[1] != kv_len:
        raise UnsupportedError(f"q_len {q.shape[1]} is not kv_len {kv_len}; FlexPrefill selects for whole prompts")
    if kv_len <= (dense_below := rule.dense_below(BLOCK_SIZE)):
        raise UnsupportedError(f"kv_len {kv_len} is not above {dense_below}, up to where it is dense")
    index = BlockIndex.empty(k.shape[0], q.shape[2], BlockGrid(kv_len, kv_len), q.device)
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.flexprefill.triton import select_flex_triton as select
    else:
        from fp_bench.kernels.flexprefill.steps_torch import select_flex_torch as select
    select(q, k, rule, scale, index)
    return index
