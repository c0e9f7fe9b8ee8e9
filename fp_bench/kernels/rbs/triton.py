"""RBS-Attention's selection in one Triton kernel: FlashPrefill's discovery with a second energy a block.

The grid, the transposed product, the scratch and the compaction are those of `flashprefill.triton`. A tile of products
is reduced twice: as it is, and lifted by ``norm(q) * lift`` (one multiply-add a score). So both rules read Q and the
mean keys once. Two scratch rows a program hold both energies (16 KB at 256K, in L2); the lists are the union.

Each score costs two exponentials where FlashPrefill's costs one, and the product the same.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.backend import capability
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flashprefill.triton import COMPACT_TILE, append, launch_config, program_count
from fp_bench.kernels.launch import CachedKernel, split_options
from fp_bench.kernels.layout import LOG2E
from fp_bench.kernels.rbs.rule import Rescue

SIZES = ("sink", "window", "last_full", "q_len", "kv_len", "first", "rows", "batch_heads", "q_heads", "group")
"""Arguments that change from call to call: one compiled form takes all."""


@triton.jit
def _energy(logits, scale_log2):
    """Return log2 of the sums of exponentials along rows."""
    highest = tl.max(logits, 1) * scale_log2
    return highest + tl.log2(tl.sum(tl.exp2(logits * scale_log2 - highest[:, None]), 1))


@triton.jit
def _score_twice(
    q, norm, pooled_ptr, lifts_ptr, base_ptr, lifted_ptr, a, row_valid, scale_log2, stride_pn,
    KEY_TILE: tl.constexpr, HEAD_DIM: tl.constexpr, MASK_ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write both log2 energies of the key blocks before ``a`` to scratch; return the largest of each."""
    dim = tl.arange(0, HEAD_DIM)
    lane = tl.arange(0, KEY_TILE)
    largest = tl.full((KEY_TILE,), float("-inf"), tl.float32)
    largest_lifted = tl.full((KEY_TILE,), float("-inf"), tl.float32)
    for start in tl.range(0, a, KEY_TILE, num_stages=STAGES):
        c = start + lane
        seen = c < a
        tile = pooled_ptr + tl.cast(start, tl.int64) * stride_pn
        keys = tl.load(tile + lane[:, None] * stride_pn + dim, mask=seen[:, None], other=0.0)
        lift = tl.load(lifts_ptr + c, mask=seen, other=0.0)
        logits = tl.dot(keys, q.T, input_precision="ieee")
        if MASK_ROWS:
            logits = tl.where(row_valid[None, :], logits, float("-inf"))
        energy = _energy(logits, scale_log2)
        tl.store(base_ptr + c, energy, mask=seen)
        largest = tl.maximum(largest, tl.where(seen, energy, float("-inf")))
        energy = _energy(logits + lift[:, None] * norm[None, :], scale_log2)
        tl.store(lifted_ptr + c, energy, mask=seen)
        largest_lifted = tl.maximum(largest_lifted, tl.where(seen, energy, float("-inf")))
    return tl.max(largest, 0), tl.max(largest_lifted, 0)


@triton.jit(do_not_specialize=SIZES)
def _rescue_kernel(
    q_ptr, pooled_ptr, lifts_ptr, scratch_ptr, blocks_ptr, counts_ptr,
    scale_log2, log2_alpha, log2_rescue, sink, window, last_full,
    q_len, kv_len, first, rows, key_blocks, batch_heads, q_heads, group,
    stride_qb, stride_qn, stride_qh, stride_pb, stride_pn, stride_ph,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr, STAGES: tl.constexpr, COMPACT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    base = scratch_ptr + program.to(tl.int64) * 2 * key_blocks
    lifted = base + key_blocks
    offset = kv_len - q_len
    dim = tl.arange(0, HEAD_DIM)
    for tile in range(program, rows * batch_heads, tl.num_programs(0)):
        row = rows - 1 - tile // batch_heads
        batch_head = tile % batch_heads
        batch = (batch_head // q_heads).to(tl.int64)
        head = (batch_head % q_heads).to(tl.int64)
        kv_head = (batch_head % q_heads // group).to(tl.int64)
        list_row = (batch_head * rows + row).to(tl.int64)
        a = first + row
        q_base = q_ptr + batch * stride_qb + head * stride_qh
        pooled = pooled_ptr + batch * stride_pb + kv_head * stride_ph
        lifts = lifts_ptr + (batch * (q_heads // group) + kv_head) * key_blocks

        query = a * BLOCK - offset + tl.arange(0, BLOCK)
        row_valid = (query >= 0) & (query < q_len)
        q = tl.load(q_base + query.to(tl.int64)[:, None] * stride_qn + dim, mask=row_valid[:, None], other=0.0)
        wide = q.to(tl.float32)
        norm = tl.sqrt(tl.sum(wide * wide, 1))
        complete = (a + 1) * BLOCK <= kv_len
        if complete & (a * BLOCK >= offset):
            largest, largest_lifted = _score_twice(
                q, norm, pooled, lifts, base, lifted, a, row_valid, scale_log2, stride_pn,
                KEY_TILE, HEAD_DIM, False, STAGES,
            )  # fmt: skip
        else:
            largest, largest_lifted = _score_twice(
                q, norm, pooled, lifts, base, lifted, a, row_valid, scale_log2, stride_pn,
                KEY_TILE, HEAD_DIM, True, STAGES,
            )  # fmt: skip
        # The diagonal block is visible to its last row alone, and only when it is complete.
        last_query = ((a + 1) * BLOCK - 1 - offset).to(tl.int64)
        last = tl.load(q_base + last_query * stride_qn + dim, mask=complete & (dim >= 0), other=0.0).to(tl.float32)
        key = tl.load(pooled + a.to(tl.int64) * stride_pn + dim).to(tl.float32)
        product = tl.sum(last * key, 0)
        own = tl.where(complete, product * scale_log2, float("-inf"))
        raised = product + tl.load(lifts + a) * tl.sqrt(tl.sum(last * last, 0))
        own_lifted = tl.where(complete, raised * scale_log2, float("-inf"))

        tl.debug_barrier()  # every warp's energies are written before any warp reads them
        threshold = tl.maximum(largest, own) + log2_alpha
        threshold_lifted = tl.maximum(largest_lifted, own_lifted) + log2_rescue
        count = 0
        for start in range(0, a + 1, COMPACT):
            c = start + tl.arange(0, COMPACT)
            energy = tl.load(base + c, mask=c < a, other=float("-inf"))
            energy_lifted = tl.load(lifted + c, mask=c < a, other=float("-inf"))
            keep = tl.where(c == a, own, energy) >= threshold
            keep |= tl.where(c == a, own_lifted, energy_lifted) >= threshold_lifted
            keep |= (c < sink) | (a - c < window) | (row >= rows - last_full)
            count = append(blocks_ptr + list_row * key_blocks, count, c, keep & (c <= a))
        tl.store(counts_ptr + list_row, count)
        tl.debug_barrier()  # the scratch is read before the next query block overwrites it


_rescue = CachedKernel(_rescue_kernel)


def discover_rescued_triton(
    q: Tensor, pooled: Tensor, lifts: Tensor, rule: KeepRule, rescue: Rescue, scale: float, index: BlockIndex
) -> None:
    """Fill ``index``; ``lifts`` is ``[batch, kv_heads, key_blocks]`` contiguous, the rest as for `select_rescued`."""
    grid = index.grid
    batch, _, q_heads, head_dim = q.shape
    count = program_count(q.device, grid.rows * batch * q_heads)
    scratch = torch.empty((count, 2, grid.key_blocks), dtype=torch.float32, device=q.device)
    tiles, options = split_options(launch_config(head_dim, capability(q.device)))
    _rescue(
        count,
        (q, pooled, lifts, scratch, index.blocks, index.counts),
        (scale * LOG2E, rule.log2_alpha, rescue.log2_alpha),
        (
            *(rule.sink_blocks, rule.window_blocks, rule.last_full_blocks),
            *(grid.q_len, grid.kv_len, grid.first, grid.rows, grid.key_blocks),
            *(batch * q_heads, q_heads, q_heads // pooled.shape[2]),
            *(*q.stride()[:3], *pooled.stride()[:3]),
        ),
        {"BLOCK": grid.block_size, "HEAD_DIM": head_dim, **tiles, "COMPACT": COMPACT_TILE},
        options,
    )
