"""The composed operator: FlashPrefill from Q, K, V to the output."""

from typing import Literal, overload

import torch
from torch import Tensor

from fp_bench.kernels.attention import AttentionOut, block_sparse_attention
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.planned import Settings, run_planned
from fp_bench.kernels.layout import check_layout, check_no_grad, empty_outputs
from fp_bench.kernels.pooling import pool_keys


@overload
def flash_prefill(
    q: Tensor, k: Tensor, v: Tensor, *, alpha: float, sink_blocks: int = ..., window_blocks: int = ...,
    last_full_blocks: int = ..., scale: float | None = ..., return_lse: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def flash_prefill(
    q: Tensor, k: Tensor, v: Tensor, *, alpha: float, sink_blocks: int = ..., window_blocks: int = ...,
    last_full_blocks: int = ..., scale: float | None = ..., return_lse: Literal[True],
) -> AttentionOut: ...  # fmt: skip


def flash_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    alpha: float,
    sink_blocks: int = 2,
    window_blocks: int = 4,
    last_full_blocks: int = 2,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | AttentionOut:
    """Return causal prefill attention over the key blocks that FlashPrefill keeps (arXiv 2603.06199).

    Keys are mean-pooled in blocks of 128; a key block is kept for a query block when its energy is at least ``alpha``
    times the largest of the row, or when it is forced; attention over the kept blocks is exact. On a GPU float16 and
    bfloat16 run that GPU's kernels, without a host sync; anything else runs plain torch.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``, float16, bfloat16 or float32, any strides with head_dim contiguous;
            head_dim 64, 128 or 256.
        k: ``[batch, kv_len, kv_heads, head_dim]``; query head h reads KV head ``h // (q_heads // kv_heads)``. With
            ``q_len < kv_len`` query i has position ``kv_len - q_len + i`` (a chunk of a longer prompt).
        v: as ``k``.
        alpha: threshold; the paper's values are 0.18 (Llama-3.1-8B), 0.08 (Qwen2.5-7B), 0.12 (Qwen3-30B-A3B).
        sink_blocks: key blocks at the start that every query block keeps.
        window_blocks: key blocks up to and including the diagonal that are kept.
        last_full_blocks: query blocks at the end that keep everything; 0 for a chunk that is not the prompt's last.
        scale: factor on the logits; None is ``head_dim ** -0.5``.
        return_lse: also return the natural logarithm of the softmax denominators.

    Returns:
        ``out`` shaped and typed as ``q``, or ``AttentionOut(out, lse)`` with lse ``[batch, q_heads, q_len]`` float32.

    Raises:
        UnsupportedError: anything these kernels do not define, and inputs that require grad.
    """
    operator = _flash_prefill
    if torch.compiler.is_compiling():  # which traces the custom op as one node; eager calls spare its dispatch
        check_layout(q, k, v)
        check_no_grad(q, k, v)
        operator = torch.ops.fp_bench.flash_prefill
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, lse = operator(q, k, v, alpha, sink_blocks, window_blocks, last_full_blocks, scale)
    return AttentionOut(out, lse) if return_lse else out


def _flash_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: float,
    sink_blocks: int,
    window_blocks: int,
    last_full_blocks: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return prefill(q, k, v, Settings(alpha, sink_blocks, window_blocks, last_full_blocks, scale))


def prefill(q: Tensor, k: Tensor, v: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` of `flash_prefill`: by a plan where there can be one, else step by step.

    Raises:
        UnsupportedError: as `flash_prefill`.
        UnavailableError: a backend asked for by name that cannot run, or does not take the tensors.
    """
    check_no_grad(q, k, v)
    if (planned := run_planned(q, k, v, settings)) is not None:
        return planned
    check_layout(q, k, v)
    scale, backend = settings.scale, settings.backend
    pooled = pool_keys(k, backend=backend)
    index = select_blocks(q, pooled, settings.rule(), kv_len=k.shape[1], scale=scale, backend=backend)
    return block_sparse_attention(q, k, v, index, scale=scale, backend=backend)


_flash_prefill_op = torch.library.custom_op("fp_bench::flash_prefill", _flash_prefill, mutates_args=())


@_flash_prefill_op.register_fake
def _flash_prefill_shapes(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_outputs(q)
