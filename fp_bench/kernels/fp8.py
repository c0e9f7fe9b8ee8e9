"""Attention in FP8 (e4m3): keys and values rounded once, what their layout is, and the operator over a BlockIndex.

Opt-in: weights and values carry 3 bits of mantissa, so outputs differ from exact attention by a few per cent. The lists
of blocks are those of the unrounded keys. Runs on Hopper alone (`block_sparse_fp8`); `reference_fp8` defines it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.block_sparse import AttentionOut, check_call, hopper_missing
from fp_bench.kernels.layout import BLOCK_SIZE, check_layout, check_no_grad

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""Largest number of e4m3; the largest magnitude of a block, or of a query, becomes this."""
SMALLEST_PEAK = 2.0**-20
"""A block of smaller numbers is scaled as if this were its largest: no scale is 0, and ratios of two stay finite."""
LOG2_WEIGHTS = 8
"""Weights are multiplied by 2 to this before they are rounded: those down to 2**-14 of a row's largest are normal."""
HEAD_DIM = 128


class Fp8KV(NamedTuple):
    """Keys and values as the kernel reads them, and the block means that the same pass yields."""

    k: Tensor
    """``[batch, kv_heads, key_blocks, 128, head_dim]`` e4m3, contiguous: K over its block's scale, zeros past the end.
    A block is 16 KB in one piece: rows a power of two apart would meet in few channels of the memory."""
    v: Tensor
    """``[batch, kv_heads, key_blocks, head_dim, 128]`` e4m3, contiguous: V over its block's scale, transposed, keys in
    the order of `key_order`, zeros past the end."""
    scales: Tensor
    """``[batch, kv_heads, key_blocks, 4]`` float32: K's scale, V's, V's inverse, 0 (a box of TMA is 16 bytes)."""
    pooled: Tensor
    """``[batch, key_blocks, kv_heads, head_dim]`` in K's dtype: `pooling.pool_keys` of the unrounded keys."""


def key_order(device: torch.device | str = "cpu") -> Tensor:
    """Return ``[128]`` int64: which key of a block each column of `Fp8KV.v` holds.

    Of 16 neighbouring keys a thread has four of P in registers, 2t, 2t + 1, 2t + 8 and 2t + 9 (the accumulator of
    wgmma), and an 8-bit operand takes keys 4t to 4t + 3 from it. P V is the same in any order of the keys that P and V
    share, so V comes in the order that P has, and no register leaves its thread.
    """
    column = torch.arange(BLOCK_SIZE, device=device)
    return column // 16 * 16 + column % 16 // 4 * 2 + column // 2 % 2 * 8 + column % 2


def quantise_kv(k: Tensor, v: Tensor, *, backend: str = "auto") -> Fp8KV:
    """Round K and V to e4m3, a scale a block of 128 keys and KV head; pool K on the way.

    Defined by `reference_fp8.quantise_kv`.

    Args:
        k: ``[batch, kv_len, kv_heads, 128]``, any strides with head_dim contiguous.
        v: as ``k``.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: another head_dim, or inputs that require grad.
    """
    check_layout(k, k, v)
    check_no_grad(k, v)
    if k.shape[3] != HEAD_DIM:
        raise UnsupportedError(f"head_dim {k.shape[3]}: FP8 attention takes {HEAD_DIM}")
    if resolve_backend(k, backend) == "triton":
        from fp_bench.kernels.fp8_triton import quantise_kv_triton

        return quantise_kv_triton(k, v)
    from fp_bench.kernels import reference_fp8

    return reference_fp8.quantise_kv(k, v)


def block_sparse_attention_fp8(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, *, scale: float, rounded: Fp8KV | None = None
) -> AttentionOut:
    """Return `block_sparse.block_sparse_attention` with products of e4m3, accumulated in float32.

    Defined by `reference_fp8.attention`. Each query is scaled to e4m3 by its own largest magnitude, inside the kernel.

    Args:
        q: ``[batch, q_len, q_heads, 128]``, float16 or bfloat16.
        k: ``[batch, kv_len, kv_heads, 128]``.
        v: as ``k``.
        index: the lists, a list a query head, blocks of 128.
        scale: factor on the logits, positive.
        rounded: `quantise_kv` of ``k`` and ``v``, if there is one already.

    Raises:
        UnsupportedError: tensors or an index that the kernels do not define, or inputs that require grad.
        UnavailableError: no Hopper GPU, or a call that its kernel does not take.
    """
    check_call(q, k, v, scale, (index.counts.shape[0], index.q_heads, index.q_len, index.kv_len))
    if index.packed != 1:
        raise UnsupportedError(f"{index.packed} heads share a list; FP8 attention takes a list a head")
    if (reason := fp8_missing(q, k, v, index.block_size)) is not None:
        raise UnavailableError(reason)
    from fp_bench.kernels.block_sparse_fp8 import block_sparse_attention_fp8_hopper

    rounded = quantise_kv(k, v) if rounded is None else rounded
    return AttentionOut(*block_sparse_attention_fp8_hopper(q, rounded, index, scale))


def fp8_missing(q: Tensor, k: Tensor, v: Tensor, block_size: int = BLOCK_SIZE) -> str | None:
    """Return why FP8 attention cannot compute a call here, or None."""
    if not q.is_cuda:
        return f"FP8 attention runs on Hopper GPUs (compute capability 9.0); the tensors are on {q.device}"
    if q.shape[3] != HEAD_DIM:
        return f"FP8 attention takes head_dim {HEAD_DIM}, not {q.shape[3]}"
    if (reason := hopper_missing(q, k, v, block_size)) is not None:
        return f"FP8 attention: {reason}"
    from fp_bench.kernels.block_sparse_fp8 import self_test

    return self_test(q.device)
