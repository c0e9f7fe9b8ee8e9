"""Block-sparse causal attention in portable Triton: FlashAttention-2's online softmax over a list of key blocks.

One program computes ``BLOCK_M`` rows of Q: queries of one head or, if packed, of all heads of a KV head. It takes the
last listed block first, because only that one may need the causal mask. This gives a good running maximum early, and
its loads overlap the first ones of the loop. One flat loop without a mask then takes the other blocks in tiles of
``BLOCK_N`` keys, so that the software pipeline never drains between blocks. With mean correction, a last loop reads
the means of past blocks as if they were keys, ``BLOCK_N`` at a time, and hides those of listed blocks.

With a threshold (skip-softmax), a tile is skipped after its first product if its logits are far below the running
maxima of all its rows. V is then loaded when it is needed, not ahead.

The longest query blocks start first. Among 16 neighbouring query blocks, those of one KV head run together, so that
about one wave of programs reads the same K and V from L2. On an H200, running all heads of one query block together is
5 % faster at 4K and 5-15 % slower from 64K on; running whole heads together leaves a long tail at short lengths.

On sm_90 at head_dim 128 (BLOCK_M 128, BLOCK_N 128, 8 warps, 2 stages), a program takes 224 KB of shared memory: 32 KB
for Q, 128 KB for two stages of K and V, 64 KB for the first block. It uses 255 registers a thread, and one program
runs on each SM. Plain Triton cannot overlap the softmax with the next product: it waits for every wgmma, which limits
the kernel to about 470 TFLOP/s. Chips with less shared memory take the smaller tiles of `launch_config`.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.attention.online_softmax import fold, matters
from fp_bench.kernels.backend import capability
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, empty_outputs
from fp_bench.kernels.pooling.means import BlockMeans
from fp_bench.kernels.pooling.means_triton import TILE, kept_bits

ROW_GROUP = 16
"""Neighbouring query blocks that run KV head by KV head."""


SIZES = ("q_len", "kv_len", "first", "rows", "width", "batch_lists", "lists", "group")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


@triton.jit(do_not_specialize=SIZES)
def _block_sparse_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, mean_k_ptr, mean_v_ptr, bits_ptr,
    skipped_ptr, scale_log2, log2_skip,
    q_len, kv_len, first, rows, width, batch_lists, lists, group,
    stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    stride_vb, stride_vn, stride_vh, stride_ob, stride_on, stride_oh,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr, STAGES: tl.constexpr,
    ROW_GROUP: tl.constexpr, PACKED: tl.constexpr, MEANS: tl.constexpr,
    BITS_TILE: tl.constexpr, WIDE: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = BLOCK // BLOCK_M
    TILES: tl.constexpr = BLOCK // BLOCK_N
    # Order: groups of rows, longest first; in a group by KV head, row, part, list of the KV head.
    per_kv_head = ROW_GROUP * PARTS * group
    per_row_group = per_kv_head * (batch_lists // group)
    in_row_group = tl.program_id(0) % per_row_group
    in_kv_head = in_row_group % per_kv_head
    row = rows - 1 - tl.program_id(0) // per_row_group * ROW_GROUP - in_kv_head // (PARTS * group)
    if row < 0:
        return
    part = in_kv_head // group % PARTS
    batch_list = in_row_group // per_kv_head * group + in_kv_head % group
    batch = (batch_list // lists).to(tl.int64)
    head = batch_list % lists
    if WIDE:
        head = head.to(tl.int64)
    offset = kv_len - q_len
    list_row = (batch_list * rows + row).to(tl.int64)
    count = tl.load(counts_ptr + list_row)
    blocks_ptr += list_row * width

    # A row of Q is one position of one head; packed, the heads of a KV head come one after the other at each position.
    place = (first + row) * BLOCK + part * BLOCK_M + tl.arange(0, BLOCK_M)
    position = place // PACKED
    query = (position - offset).to(tl.int64)
    query_valid = (query >= 0) & (query < q_len)
    q_rows = query * stride_qn
    out_rows = query * stride_on
    lse_rows = query
    if PACKED > 1:
        in_list = place % PACKED
        if WIDE:
            in_list = in_list.to(tl.int64)
        q_rows += in_list * stride_qh
        out_rows += in_list * stride_oh
        lse_rows += in_list * q_len
    dim = tl.arange(0, HEAD_DIM)
    lane = tl.arange(0, BLOCK_N)
    q = tl.load(
        q_ptr + batch * stride_qb + head * PACKED * stride_qh + q_rows[:, None] + dim,
        mask=query_valid[:, None],
        other=0.0,
    )
    k_ptr += batch * stride_kb + (head // group) * stride_kh
    v_ptr += batch * stride_vb + (head // group) * stride_vh
    k_tile = lane[:, None] * stride_kn + dim
    v_tile = lane[:, None] * stride_vn + dim

    acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    denominator = tl.zeros((BLOCK_M,), tl.float32)
    highest = tl.full((BLOCK_M,), -1.0e30, tl.float32)
    skipped = 0

    # The last listed block: the only one with keys in a query's future or past the end. Its first tile shows every
    # query at least one key, so a later tile that is masked whole leaves the running maximum finite.
    last = tl.load(blocks_ptr + count - 1, mask=count > 0, other=0).to(tl.int32)
    for tile in tl.static_range(TILES):
        key = last * BLOCK + tile * BLOCK_N + lane
        start = (last * BLOCK + tile * BLOCK_N).to(tl.int64)
        k = tl.load(k_ptr + start * stride_kn + k_tile, mask=key[:, None] < kv_len, other=0.0)
        logits = tl.dot(q, k.T, input_precision="ieee")
        logits = tl.where(position[:, None] >= key[None, :], logits, -1.0e30)
        if SKIP:
            if matters(logits, highest, query_valid, scale_log2, log2_skip):
                v = tl.load(v_ptr + start * stride_vn + v_tile, mask=key[:, None] < kv_len, other=0.0)
                acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)
            else:
                skipped += 1
        else:
            v = tl.load(v_ptr + start * stride_vn + v_tile, mask=key[:, None] < kv_len, other=0.0)
            acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    for step in tl.range(0, (count - 1) * TILES, num_stages=STAGES):
        block = tl.load(blocks_ptr + step // TILES).to(tl.int64)
        start = block * BLOCK + (step % TILES) * BLOCK_N
        k = tl.load(k_ptr + start * stride_kn + k_tile)
        if SKIP:
            logits = tl.dot(q, k.T, input_precision="ieee")
            if matters(logits, highest, query_valid, scale_log2, log2_skip):
                v = tl.load(v_ptr + start * stride_vn + v_tile)
                acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)
            else:
                skipped += 1
        else:
            v = tl.load(v_ptr + start * stride_vn + v_tile)
            logits = tl.dot(q, k.T, input_precision="ieee")
            acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    if MEANS:
        # Blocks before the row's own are seen whole; those not listed count BLOCK times with their means. Lists have
        # room for all blocks here: width is their number.
        past = (first + row) // PACKED
        kv_heads = lists // group
        of_head = (batch * width * kv_heads + head // group) * HEAD_DIM
        bits_ptr += list_row * (tl.cdiv(width, BITS_TILE) * (BITS_TILE // 32))
        times = tl.log2(BLOCK * 1.0) / scale_log2
        for start in tl.range(0, past, BLOCK_N, num_stages=STAGES):
            block = start + lane
            seen = block < past
            word = tl.load(bits_ptr + block // 32)
            of_block = of_head + block[:, None] * (kv_heads * HEAD_DIM) + dim
            k = tl.load(mean_k_ptr + of_block, mask=seen[:, None], other=0.0)
            v = tl.load(mean_v_ptr + of_block, mask=seen[:, None], other=0.0)
            logits = tl.dot(q, k.T, input_precision="ieee")
            hidden = ((word >> block % 32) & 1 != 0) | (block >= past)
            logits = tl.where(hidden[None, :], -1.0e30, logits + times)
            acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    if SKIP:
        counts = (count > 0) & (tl.max(query_valid.to(tl.int32), 0) > 0)
        tl.store(skipped_ptr + list_row * PARTS + part, tl.where(counts, skipped, 0))
    # An empty list has read block 0 for nothing: its output is 0.
    out = tl.where(count > 0, acc / denominator[:, None], 0.0)
    lse = tl.where(count > 0, (highest + tl.log2(denominator)) / 1.4426950408889634, float("-inf"))
    out_ptr += batch * stride_ob + head * PACKED * stride_oh
    tl.store(out_ptr + out_rows[:, None] + dim, out.to(out_ptr.dtype.element_ty), mask=query_valid[:, None])
    tl.store(lse_ptr + (batch_list * PACKED).to(tl.int64) * q_len + lse_rows, lse, mask=query_valid)


ATTEND = CachedKernel(_block_sparse_kernel)


def _heads_lie_far_apart(*tensors: Tensor) -> bool:
    """Return whether ``head * stride`` may pass 2^31: at 64 bits the kernel spills a few registers, so only then."""
    return any(tensor.shape[2] * tensor.stride(2) >= 2**31 for tensor in tensors)


def launch_config(head_dim: int, capability: int, block_size: int = BLOCK_SIZE) -> dict[str, int]:
    """Return tile sizes, stages and warps for a chip; a tile larger than a block is cut to it.

    Args:
        head_dim: 64, 128 or 256.
        capability: ten times the CUDA compute capability (90 for an H200); 0 for AMD.
        block_size: tokens of a block.
    """
    if capability in (90, 100, 103):  # 227 KB of shared memory
        if block_size == 64 and head_dim <= 128:
            # One warpgroup: no two share a row and its sums. Two programs an SM at 128; not timed beside others.
            return {"BLOCK_M": 64, "BLOCK_N": 64, "STAGES": 2, "num_warps": 4}
        return {"BLOCK_M": 128, "BLOCK_N": 32 if head_dim == 256 else 128, "STAGES": 2, "num_warps": 8}
    if capability == 0:  # 64 KB
        return {"BLOCK_M": 64 if head_dim == 256 else 128, "BLOCK_N": 32, "STAGES": 1, "num_warps": 4}
    # 99 KB and up, and mma.sync, whose operands lie in registers: compiled for sm_80 and sm_89, not timed there.
    block_m, block_n = {64: (128, 64), 128: (128, 32), 256: (64, 32)}[head_dim]
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "STAGES": 2, "num_warps": 8}


def block_sparse_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, scale: float, means: BlockMeans | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` as `attention.block_sparse_attention` does."""
    out, lse = empty_outputs(q)
    ATTEND(*attend_arguments(q, k, v, out, lse, index, scale, means))
    return out, lse


def skipping_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, scale: float, skip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(out, lse, skipped)`` as `skipping.skipping_attention` does."""
    out, lse = empty_outputs(q)
    parts = index.block_size // _tiles(q, index.block_size)["BLOCK_M"]
    skipped = torch.empty((*index.counts.shape, parts), dtype=torch.int32, device=q.device)
    ATTEND(*attend_arguments(q, k, v, out, lse, index, scale, None, skip, skipped))
    return out, lse, skipped


def _tiles(q: Tensor, block_size: int) -> dict[str, int]:
    """Return `launch_config` for queries, with tiles no larger than a block."""
    config = launch_config(q.shape[3], capability(q.device), block_size)
    return config | {name: min(config[name], block_size) for name in ("BLOCK_M", "BLOCK_N")}


def attend_arguments(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, index: BlockIndex, scale: float,
    means: BlockMeans | None = None, skip: float | None = None, skipped: Tensor | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """Return what `ATTEND` takes; ``skipped`` is what it writes where it skips."""
    grid = index.grid
    batch, q_len, q_heads, head_dim = q.shape
    config = _tiles(q, grid.block_size)
    lists = q_heads // grid.packed
    row_group = ROW_GROUP * grid.packed
    rows = triton.cdiv(grid.rows, row_group) * row_group
    # Nothing reads the stand-ins.
    mean_k, mean_v, bits = (k, v, index.counts) if means is None else (*means, kept_bits(index))
    return (
        rows * batch * lists * (grid.block_size // config["BLOCK_M"]),
        (
            q,
            k,
            v,
            out,
            lse,
            index.blocks,
            index.counts,
            mean_k,
            mean_v,
            bits,
            index.counts if skipped is None else skipped,
        ),
        (scale * LOG2E, 0.0 if skip is None else math.log2(skip)),
        (
            *(q_len, grid.kv_len, grid.first, grid.rows, index.blocks.shape[-1]),
            *(batch * lists, lists, lists // k.shape[2]),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
        ),
        {
            "BLOCK": grid.block_size,
            **{name: config[name] for name in ("BLOCK_M", "BLOCK_N")},
            "HEAD_DIM": head_dim,
            "STAGES": config["STAGES"],
            "ROW_GROUP": row_group,
            "PACKED": grid.packed,
            "MEANS": means is not None,
            "BITS_TILE": TILE,
            "WIDE": _heads_lie_far_apart(q, k, v),
            "SKIP": skip is not None,
        },
        {"num_warps": config["num_warps"]},
    )
