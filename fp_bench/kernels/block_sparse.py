"""Exact softmax attention over the blocks of a BlockIndex: picks the implementation that fits the tensors."""

from typing import NamedTuple

from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import HEAD_DIMS, check_layout, check_no_grad
from fp_bench.kernels.rule import check_scale


class AttentionOut(NamedTuple):
    """``out [batch, q_len, q_heads, head_dim]`` in Q's dtype; ``lse [batch, q_heads, q_len]`` float32, natural log."""

    out: Tensor
    lse: Tensor


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, *, scale: float, backend: str = "auto"
) -> AttentionOut:
    """Return causal attention of every query over the key blocks its query block lists.

    Defined by `reference.attention`. A query whose list is empty gets output 0 and lse -inf.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``, any strides with head_dim contiguous; head_dim 64, 128 or 256.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        index: the lists, for these lengths and this number of query heads.
        scale: factor on the logits, positive.
        backend: ``auto``, ``triton`` (float16, bfloat16 on a GPU) or ``torch``.

    Raises:
        UnsupportedError: tensors or an index that the kernels do not define, or inputs that require grad.
    """
    check_layout(q, k, v)
    check_no_grad(q, k, v)
    check_scale(scale)
    if q.shape[3] not in HEAD_DIMS:
        raise UnsupportedError(f"head_dim {q.shape[3]} is not one of {', '.join(map(str, HEAD_DIMS))}")
    expected = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    given = (*index.counts.shape[:2], index.q_len, index.kv_len)
    if given != expected:
        raise UnsupportedError(f"index is for (batch, q_heads, q_len, kv_len) {given}, the tensors are {expected}")
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.block_sparse_triton import block_sparse_attention_triton as implementation
    else:
        from fp_bench.kernels.block_sparse_torch import block_sparse_attention_torch as implementation
    return AttentionOut(*implementation(q, k, v, index, scale))
