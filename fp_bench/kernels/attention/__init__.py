"""Exact softmax attention over the blocks of a BlockIndex: picks the implementation that fits the tensors."""

from typing import NamedTuple

from torch import Tensor

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.kernels.backend import gluon_missing, resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, check_layout, check_no_grad, check_scale, head_dim_problem
from fp_bench.kernels.pooling.means import BlockMeans


class AttentionOut(NamedTuple):
    """``out [batch, q_len, q_heads, head_dim]`` in Q's dtype; ``lse [batch, q_heads, q_len]`` float32, natural log."""

    out: Tensor
    lse: Tensor


def check_call(q: Tensor, k: Tensor, v: Tensor, scale: float, index: tuple[int, ...]) -> None:
    """Refuse what no kernel attends over.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        scale: factor on the logits.
        index: batch, q_heads, q_len and kv_len that the index is for.

    Raises:
        UnsupportedError: tensors or an index that the kernels do not define, or inputs that require grad.
    """
    check_layout(q, k, v)
    check_no_grad(q, k, v)
    check_scale(scale)
    if (problem := head_dim_problem(q.shape[3])) is not None:
        raise UnsupportedError(problem)
    expected = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    if index != expected:
        raise UnsupportedError(f"index is for (batch, q_heads, q_len, kv_len) {index}, the tensors are {expected}")


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: BlockIndex,
    *,
    scale: float,
    means: BlockMeans | None = None,
    backend: str = "auto",
) -> AttentionOut:
    """Return causal attention of every query over the key blocks that its row of tiles lists.

    Defined by `reference.attention`. A query whose list is empty gets output 0 and lse -inf.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``, any strides with head_dim contiguous; head_dim 64, 128 or 256.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        index: the lists, for these lengths and this number of query heads.
        scale: factor on the logits, positive.
        means: of the key blocks (`means.block_means`): those that are seen whole and not listed count with their means.
        backend: ``auto``, ``hopper`` (sm_90, head_dim 128), ``triton`` (float16, bfloat16 on a GPU) or ``torch``.

    Raises:
        UnsupportedError: tensors or an index that the kernels do not define, or inputs that require grad.
    """
    check_call(q, k, v, scale, (index.counts.shape[0], index.q_heads, index.q_len, index.kv_len))
    if index.packed not in (1, q.shape[2] // k.shape[2]):
        raise UnsupportedError(f"{index.packed} heads share a list; it must be 1 or all of a KV head's")
    if index.packed > index.block_size:
        raise UnsupportedError(f"{index.packed} heads of a KV head do not fit a row of {index.block_size}")
    if means is not None and index.blocks.shape[-1] != index.grid.key_blocks:
        raise UnsupportedError(
            f"lists of {index.blocks.shape[-1]} blocks; with means they need room for all key blocks"
        )
    kernel = implementation(q, k, v, backend, index.block_size, index.packed)
    if kernel == "hopper":
        from fp_bench.kernels.attention.hopper import block_sparse_attention_hopper as attend
    elif kernel == "triton":
        from fp_bench.kernels.attention.triton import block_sparse_attention_triton as attend
    else:
        from fp_bench.kernels.attention.torch import block_sparse_attention_torch as attend
    return AttentionOut(*attend(q, k, v, index, scale, means))


def implementation(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    backend: str = "auto",
    block_size: int = BLOCK_SIZE,
    packed: int = 1,
    skipping: bool = False,
) -> str:
    """Name what computes this call, with skip-softmax or without: ``hopper``, ``triton`` or ``torch``.

    Raises:
        UnavailableError: the backend asked for by name cannot run here or does not take these tensors.
    """
    kernel = resolve_backend(q, backend)
    if kernel == "torch" or backend == "triton" or not q.is_cuda:
        return kernel
    reason = hopper_missing(q, k, v, block_size, packed, skipping)
    if reason is not None and backend == "hopper":
        raise UnavailableError(f"backend hopper: {reason}")
    return "hopper" if reason is None else "triton"


def hopper_missing(
    q: Tensor, k: Tensor, v: Tensor, block_size: int = BLOCK_SIZE, packed: int = 1, skipping: bool = False
) -> str | None:
    """Return why the Hopper kernel does not take this call, or None."""
    if (reason := gluon_missing()) is not None:
        return reason
    from fp_bench.kernels.attention.hopper import missing

    return missing(q, k, v, block_size, packed, skipping)
