"""Dense attention of some queries in portable Triton: FlashAttention-2's online softmax over gathered rows of Q.

One program computes ``BLOCK_M`` rows of one head. Each row is ``gamma`` positions after the one before it, or one
position in the tail. A loop without a mask reads the keys that all rows see. A second loop with the mask reads the
``BLOCK_M * gamma`` keys from the first row's position to the last one's. The last rows read most, so they start first.
Heads are innermost, so that those of a KV head share K and V in L2.

Shared memory and registers are those of `attention.triton`, because the tile sizes are the same.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.attention.online_softmax import fold
from fp_bench.kernels.attention.triton import launch_config
from fp_bench.kernels.backend import capability
from fp_bench.kernels.delta import DenseRows
from fp_bench.kernels.launch import CachedKernel, split_options
from fp_bench.kernels.layout import LOG2E

SIZES = ("kv_len", "offset", "gamma", "anchors", "tail", "count", "batch_heads", "q_heads", "group")
"""Arguments that change from call to call: one compiled form takes all."""


@triton.jit(do_not_specialize=SIZES)
def _rows_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, scale_log2,
    kv_len, offset, gamma, anchors, tail, count, batch_heads, q_heads, group,
    stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tile = (count + BLOCK_M - 1) // BLOCK_M - 1 - tl.program_id(0) // batch_heads
    batch_head = tl.program_id(0) % batch_heads
    batch = (batch_head // q_heads).to(tl.int64)
    head = (batch_head % q_heads).to(tl.int64)
    kv_head = (batch_head % q_heads // group).to(tl.int64)
    # Rows past the last one repeat it and are not stored.
    row = tl.minimum(tile * BLOCK_M + tl.arange(0, BLOCK_M), count - 1)
    query = tl.where(row < anchors, row * gamma, tail + row - anchors)
    position = query + offset
    dim = tl.arange(0, HEAD_DIM)
    lane = tl.arange(0, BLOCK_N)
    q = tl.load(q_ptr + batch * stride_qb + head * stride_qh + query.to(tl.int64)[:, None] * stride_qn + dim)
    k_ptr += batch * stride_kb + kv_head * stride_kh
    v_ptr += batch * stride_vb + kv_head * stride_vh
    k_tile = lane[:, None] * stride_kn + dim
    v_tile = lane[:, None] * stride_vn + dim
    acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    denominator = tl.zeros((BLOCK_M,), tl.float32)
    highest = tl.full((BLOCK_M,), -1.0e30, tl.float32)
    seen_by_all = (tl.min(position, 0) + 1) // BLOCK_N * BLOCK_N
    for start in tl.range(0, seen_by_all, BLOCK_N, num_stages=STAGES):
        at = tl.cast(start, tl.int64)
        k = tl.load(k_ptr + at * stride_kn + k_tile)
        v = tl.load(v_ptr + at * stride_vn + v_tile)
        logits = tl.dot(q, k.T, input_precision="ieee")
        acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)
    # Key 0 is seen by all: the maximum is finite from the first tile on.
    for start in tl.range(seen_by_all, tl.max(position, 0) + 1, BLOCK_N, num_stages=STAGES):
        at = tl.cast(start, tl.int64)
        key = start + lane
        k = tl.load(k_ptr + at * stride_kn + k_tile, mask=key[:, None] < kv_len, other=0.0)
        v = tl.load(v_ptr + at * stride_vn + v_tile, mask=key[:, None] < kv_len, other=0.0)
        logits = tl.dot(q, k.T, input_precision="ieee")
        logits = tl.where(position[:, None] >= key[None, :], logits, -1.0e30)
        acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)
    out = (acc / denominator[:, None]).to(out_ptr.dtype.element_ty)
    number = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    place = ((batch * count + number.to(tl.int64)) * q_heads + head) * HEAD_DIM
    tl.store(out_ptr + place[:, None] + dim, out, mask=(number < count)[:, None])


_rows = CachedKernel(_rows_kernel)


def attend_rows_triton(q: Tensor, k: Tensor, v: Tensor, rows: DenseRows, scale: float) -> Tensor:
    """Return `delta.attend_rows` computed by one kernel."""
    batch, _, q_heads, head_dim = q.shape
    out = torch.empty((batch, rows.count, q_heads, head_dim), dtype=q.dtype, device=q.device)
    tiles, options = split_options(launch_config(head_dim, capability(q.device)))
    _rows(
        triton.cdiv(rows.count, tiles["BLOCK_M"]) * batch * q_heads,
        (q, k, v, out),
        (scale * LOG2E,),
        (
            *(k.shape[1], k.shape[1] - rows.q_len, rows.gamma, rows.anchors, rows.tail, rows.count),
            *(batch * q_heads, q_heads, q_heads // k.shape[2]),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]),
        ),
        {**{name: tiles[name] for name in ("BLOCK_M", "BLOCK_N")}, "HEAD_DIM": head_dim, "STAGES": tiles["STAGES"]},
        options,
    )
    return out
