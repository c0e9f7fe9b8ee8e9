"""The attention of a prompt's last queries, summed by key and by distance, in three Triton kernels.

The last ``BLOCK`` queries (64 or 128) are multiplied with every key twice. The first kernel finds the maximum and the
sum of each row, in parts of ``SPAN`` tiles of keys; the second joins the parts. The third computes the weights. It sums
a square tile of weights down its columns and along its diagonals. For the diagonals it writes the tile to a scratch
buffer that stays in L2 (64 KB for 128 rows) and reads it back with row r rotated by r + 1. Diagonals are then columns:
those above began in this tile, those below continue in the next one. No tensor of size rows x keys is kept, only two
float32 vectors of ``kv_len`` a head.

At head_dim 128 on sm_90, a warp computes 16 rows with up to 96 KB of shared memory. Both kernels are limited by
reading K from L2, where the heads of a group share it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.backend import capability, multiprocessors
from fp_bench.kernels.launch import CachedKernel, split_options
from fp_bench.kernels.layout import LOG2E
from fp_bench.kernels.plan import Launches

SPAN_TILES = 8
"""Key tiles whose row maxima and sums one program computes."""
WARPS_PER_SM = 16
"""Of the kernel that needs a scratch tile a program: at most 64 KB for 8 warps, 17 MB in all on an H200."""
REGISTERS = 128
"""A thread's in that kernel, so that programs share an SM: one's loads run under another's barriers."""
ROWS_PER_WARP = 16
SPANS_AT_ONCE = 16
"""Parts joined at once."""
ROTATED_ROWS = 16
"""Rows of a tile of weights that are rotated at once: all of them at once would spill."""
SIZES = ("kv_len", "spans", "tiles", "batch_heads", "q_heads", "group")
"""Arguments that a kernel is not compiled again for."""


@triton.jit
def _last_products(
    q_ptr, k_ptr, batch_head, start, kv_len, q_heads, group,
    stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, TILE: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    """Return ``[BLOCK, TILE]`` products of the last queries with the keys from ``start`` on; -inf in the future."""
    batch = (batch_head // q_heads).to(tl.int64)
    head = (batch_head % q_heads).to(tl.int64)
    kv_head = (batch_head % q_heads // group).to(tl.int64)
    row = tl.arange(0, BLOCK)
    key = start + tl.arange(0, TILE)
    dim = tl.arange(0, HEAD_DIM)
    q = tl.load(q_ptr + batch * stride_qb + head * stride_qh + row[:, None] * stride_qn + dim[None, :])
    k_base = k_ptr + batch * stride_kb + kv_head * stride_kh
    k = tl.load(k_base + key[:, None].to(tl.int64) * stride_kn + dim[None, :], mask=key[:, None] < kv_len, other=0.0)
    products = tl.dot(q, k.T, input_precision="ieee")
    if ROUNDED:
        products = products.to(k_ptr.dtype.element_ty).to(tl.float32)
    return tl.where(key[None, :] <= kv_len - BLOCK + row[:, None], products, float("-inf"))


@triton.jit(do_not_specialize=SIZES)
def _last_rows_kernel(
    q_ptr, k_ptr, peaks_ptr, totals_ptr, scale_log2,
    kv_len, spans, q_heads, group, stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, ROUNDED: tl.constexpr, SPAN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # Heads innermost: those of a group share the keys in L2.
    batch_heads = tl.num_programs(0) // spans
    batch_head = tl.program_id(0) % batch_heads
    span = tl.program_id(0) // batch_heads
    highest = tl.full((BLOCK,), -1.0e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for tile in tl.range(0, SPAN, num_stages=STAGES):
        start = (span * SPAN + tile) * BLOCK
        logits = scale_log2 * _last_products(
            q_ptr, k_ptr, batch_head, start, kv_len, q_heads, group,
            stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh, BLOCK, HEAD_DIM, BLOCK, ROUNDED,
        )  # fmt: skip
        peak = tl.maximum(highest, tl.max(logits, 1))
        total = total * tl.exp2(highest - peak) + tl.sum(tl.exp2(logits - peak[:, None]), 1)
        highest = peak
    out = (batch_head * spans + span).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(peaks_ptr + out, highest)
    tl.store(totals_ptr + out, total)


@triton.jit(do_not_specialize=SIZES)
def _last_join_kernel(peaks_ptr, totals_ptr, lse_ptr, spans, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr):
    batch_head = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), -1.0e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, spans, AT_ONCE):
        span = start + tl.arange(0, AT_ONCE)[:, None]
        part = (batch_head * spans + span) * BLOCK + row[None, :]
        peaks = tl.load(peaks_ptr + part, mask=span < spans, other=-1.0e30)
        totals = tl.load(totals_ptr + part, mask=span < spans, other=0.0)
        peak = tl.maximum(highest, tl.max(peaks, 0))
        total = total * tl.exp2(highest - peak) + tl.sum(totals * tl.exp2(peaks - peak[None, :]), 0)
        highest = peak
    tl.store(lse_ptr + batch_head * BLOCK + row, highest + tl.log2(total))


@triton.jit(do_not_specialize=SIZES)
def _last_mass_kernel(
    q_ptr, k_ptr, lse_ptr, columns_ptr, above_ptr, below_ptr, scratch_ptr, scale_log2,
    kv_len, tiles, batch_heads, q_heads, group, stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, ROUNDED: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, BLOCK)
    scratch = scratch_ptr + tl.program_id(0).to(tl.int64) * BLOCK * BLOCK
    for task in range(tl.program_id(0), tiles * batch_heads, tl.num_programs(0)):
        batch_head = task % batch_heads
        tile = task // batch_heads
        products = _last_products(
            q_ptr, k_ptr, batch_head, tile * BLOCK, kv_len, q_heads, group,
            stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh, BLOCK, HEAD_DIM, BLOCK, ROUNDED,
        )  # fmt: skip
        lse = tl.load(lse_ptr + batch_head * BLOCK + row)
        weights = tl.exp2(products * scale_log2 - lse[:, None]) * (1.0 / BLOCK)
        tl.store(scratch + row[:, None] * BLOCK + row[None, :], weights)
        out = (batch_head * tiles + tile).to(tl.int64) * BLOCK + row
        tl.store(columns_ptr + out, tl.sum(weights, 0))
        tl.debug_barrier()  # every warp's weights are written before any warp reads them
        above = tl.zeros((PART, BLOCK), tl.float32)
        below = tl.zeros((PART, BLOCK), tl.float32)
        for start in range(0, BLOCK, PART):
            r = start + tl.arange(0, PART)[:, None]
            # Column m of the rotated tile holds row r's key m + r + 1, less BLOCK where that is past the tile's end.
            key = r + row[None, :] + 1
            rotated = tl.load(scratch + r * BLOCK + key % BLOCK)
            above += tl.where(key >= BLOCK, rotated, 0.0)
            below += tl.where(key >= BLOCK, 0.0, rotated)
        tl.store(above_ptr + out, tl.sum(above, 0))
        tl.store(below_ptr + out, tl.sum(below, 0))
        tl.debug_barrier()  # the scratch is read before the next tile overwrites it


_last_rows = CachedKernel(_last_rows_kernel)
_last_join = CachedKernel(_last_join_kernel)
_last_mass = CachedKernel(_last_mass_kernel)


def last_rows_config(rows: int, head_dim: int, capability: int) -> dict[str, int]:
    """Return the constants and compiler options of the rows' maxima and sums, by rows, head_dim and chip."""
    roomy = capability in (90, 100, 103) and head_dim <= 128
    return {"SPAN": SPAN_TILES, "STAGES": 2 if roomy else 1, "num_warps": max(rows // ROWS_PER_WARP, 1)}


def last_mass_config(rows: int, capability: int) -> dict[str, int]:
    """Return the constants and compiler options of the masses, by rows and chip; AMD (0) has no cap on registers."""
    config = {"PART": min(rows, ROTATED_ROWS), "num_warps": max(rows // ROWS_PER_WARP, 1)}
    return config | {"maxnreg": REGISTERS} if capability else config


def last_attention_triton(last: Tensor, k: Tensor, factor: float, rounded: bool) -> Tensor:
    """Return `last.last_attention`."""
    batch, size, q_heads, _ = last.shape
    launches = Launches(k.device)
    length = triton.cdiv(k.shape[1], size) * size
    mass = torch.empty((2, batch, q_heads, length), dtype=torch.float32, device=k.device)
    below = launches.empty(batch, q_heads, length)
    launch_last_masses(launches, last, k, factor, rounded, (mass[0], mass[1], below))
    launches.run()
    mass[1, ..., size:] += below[..., :-size]
    return mass


def launch_last_masses(
    launches: Launches, last: Tensor, k: Tensor, factor: float, rounded: bool, out: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Add three launches that fill ``out``: columns, diagonals, and what goes on from the tile before.

    Each is ``[batch, q_heads, length]`` float32. The first two are `last.last_attention`, but ``i + rows`` of
    the second still lacks ``i`` of the third, ``rows`` being the last queries'.
    """
    batch, size, q_heads, head_dim = last.shape
    kv_len, device = k.shape[1], launches.device
    heads = batch * q_heads
    tiles = triton.cdiv(kv_len, size)
    spans = triton.cdiv(tiles, SPAN_TILES)
    constants = {"BLOCK": size, "HEAD_DIM": head_dim}
    strides = (*last.stride()[:3], *k.stride()[:3])
    peaks, totals = launches.empty(heads, spans, size), launches.empty(heads, spans, size)
    tiling, options = split_options(last_rows_config(size, head_dim, capability(device)))
    launches.add(
        _last_rows,
        spans * heads,
        (last, k, peaks, totals),
        (factor * LOG2E,),
        (kv_len, spans, q_heads, q_heads // k.shape[2], *strides),
        {**constants, "ROUNDED": rounded, **tiling},
        options,
    )
    lse = launches.empty(heads, size)
    joined = {"BLOCK": size, "AT_ONCE": SPANS_AT_ONCE}
    launches.add(_last_join, heads, (peaks, totals, lse), (), (spans,), joined, {"num_warps": 4})
    # Diagonals that begin in a tile of keys belong to its columns, those that go on to the columns of the next tile.
    tiling, options = split_options(last_mass_config(size, capability(device)))
    at_once = WARPS_PER_SM // options["num_warps"] * multiprocessors(device) if device.type == "cuda" else 2
    programs = min(tiles * heads, at_once)
    scratch = launches.empty(programs, size, size)
    launches.add(
        _last_mass,
        programs,
        (last, k, lse, *out, scratch),
        (factor * LOG2E,),
        (kv_len, tiles, heads, q_heads, q_heads // k.shape[2], *strides),
        {**constants, "ROUNDED": rounded, **tiling},
        options,
    )
