"""The composed paged operator: FlashPrefill of a packed batch, straight from the pages."""

import torch
from torch import Tensor

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.kernels.backend import gluon_missing, resolve_backend
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import check_scale
from fp_bench.kernels.paged.batch import PagedBatch, check_paged


def flash_prefill_paged(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    batch: PagedBatch,
    *,
    alpha: float,
    sink_blocks: int = 2,
    window_blocks: int = 4,
    last_full_blocks: int = 2,
    scale: float | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Return causal prefill attention of a packed batch over the key blocks that FlashPrefill keeps.

    Each sequence gets what `flash_prefill` gives for it alone, over the same keys without pages: chunks that are cut at
    multiples of 128 select what the whole prompt would, and ``last_full_blocks`` applies where ``batch.last_chunk``
    says that a prompt ends. Three launches (pool, discover, attend), whatever the batch, and no host sync. The pooled
    keys of a cached prefix are computed again in every call, by reading K once.

    Args:
        q: ``[tokens, q_heads, head_dim]``, float16, bfloat16 or float32, head_dim 64, 128 or 256 and contiguous.
        k: ``[pages, page_size, kv_heads, head_dim]`` with pages of 16 to 256 tokens, any strides with head_dim
            contiguous; K and V may be views of one tensor.
        v: as ``k``.
        batch: of the queries and pages.
        alpha: threshold, as `flash_prefill`; so are the three numbers of blocks that follow.
        sink_blocks: key blocks at the start that every query block keeps.
        window_blocks: key blocks up to and including the diagonal that are kept.
        last_full_blocks: query blocks at a prompt's end that keep everything.
        scale: factor on the logits; None is ``head_dim ** -0.5``.
        out: shaped and typed as ``q``, head_dim contiguous; rows of no sequence are left as they are. None allocates
            zeros.
        backend: ``auto``, ``hopper`` (sm_90), ``triton`` (float16, bfloat16 on a GPU) or ``torch``.

    Raises:
        UnavailableError: the backend asked for by name cannot run here or does not take these tensors.
        UnsupportedError: anything the kernels do not define, and inputs that require grad.
    """
    check_paged(q, k, v, batch)
    rule = KeepRule(alpha, sink_blocks, window_blocks, last_full_blocks)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    check_scale(scale)
    if out is None:
        out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    elif out.shape != q.shape or out.dtype != q.dtype or out.device != q.device or out.stride(2) != 1:
        raise UnsupportedError(f"out is {out.dtype} {list(out.shape)}; it must equal q's: {q.dtype} {list(q.shape)}")
    kernel = implementation(q, k, v, out, backend)
    if kernel == "torch":
        from fp_bench.kernels.paged.paged_torch import flash_prefill_paged_torch

        flash_prefill_paged_torch(q, k, v, batch, rule, scale, out)
        return out
    from fp_bench.kernels.paged.discovery_triton import select_paged_blocks
    from fp_bench.kernels.paged.pooling_triton import pool_paged_keys

    if kernel == "hopper":
        from fp_bench.kernels.paged.hopper import attend_paged  # Gluon, which not every Triton has
    else:
        from fp_bench.kernels.paged.attention_triton import attend_paged
    lists = select_paged_blocks(q, pool_paged_keys(k, batch), batch, rule, scale)
    attend_paged(q, k, v, batch, lists, scale, out)
    return out


def implementation(q: Tensor, k: Tensor, v: Tensor, out: Tensor, backend: str = "auto") -> str:
    """Name what attends in this call: ``hopper``, ``triton`` or ``torch``; arguments as `flash_prefill_paged`.

    Raises:
        UnavailableError: the backend asked for by name cannot run here or does not take these tensors.
    """
    kernel = resolve_backend(q, backend)
    if kernel == "torch" or backend == "triton" or not q.is_cuda:
        return kernel
    reason = _hopper_missing(q, k, v, out)
    if reason is not None and backend == "hopper":
        raise UnavailableError(f"backend hopper: {reason}")
    return "hopper" if reason is None else "triton"


def _hopper_missing(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> str | None:
    if (reason := gluon_missing()) is not None:
        return reason
    from fp_bench.kernels.paged.hopper import missing

    return missing(q, k, v, out)
