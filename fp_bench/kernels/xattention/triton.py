"""XAttention's selection in two Triton kernels: fused antidiagonal masses, and a selection without a sort.

**Masses.** Antidiagonal scores are one matrix product of cells by cells whose inner dimension is ``stride *
head_dim``: ``q[x * stride + stride - 1 - t] . k[y * stride + t]`` summed over t. A persistent grid of one program an SM
takes tiles of ``ROWS`` query cells, longest first. For each, a program walks the key cells in tiles of ``COLS``:

1. the product, streamed through shared memory in steps of ``STEP`` dimensions of one t. Both operands stream, since
   ``ROWS`` cells of Q (256 KB at stride 8) do not stay: 128 x 256 tiles need 96 bytes from L2 per 65,536 multiply-adds
   of two dimensions, where 128 x 128 ones would be bound by L2 and not by the tensor cores;
2. an online row softmax: running maximum and sum in registers, and the sum of each *block's* ``block_size / stride``
   columns, relative to the running maximum of that moment, to a scratch row in float32, with that maximum;
3. at the end of the row it reads them back, brings them to the final maximum and sum, adds the rows of each query
   block and writes float32 masses.

The scores are computed once and never written; a second pass over them would double the largest cost. The scratch has
``ROWS * key_blocks`` floats a program (138 MB at 256K), the masses ``key_blocks ** 2`` floats a head (512 MB at 256K
and 32 heads).

On sm_90 (ROWS 128, COLS 256, STEP 64, 3 stages, 8 warps): 144 KB of shared memory, accumulators of 128 registers a
thread, one program an SM. A few dozen bytes of addresses and sizes are spilled, outside the loop over the products.

**Selection.** One program holds the masses of one row in registers. It finds the last mass taken by 31 bisections over
the bits of a float32, so the number of sums does not depend on the data; equal masses are taken in ascending order of
their blocks. A prefix sum compacts the lists, as in `flashprefill.triton`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.backend import capability, multiprocessors
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E, BlockGrid

BLOCKS_AT_ONCE = 64
"""Key blocks brought to the final softmax at once."""
NEARLY = tl.constexpr(0.999)
"""Weight from which on a block's largest one counts as its row's largest."""
SIZES = (
    *("q_len", "kv_len", "first", "rows", "key_blocks", "batch_heads", "q_heads", "group", "row_tiles", "width"),
    *("key_tiles", "lagging"),
)
"""Arguments that a kernel is not compiled again for: seconds each, and no faster."""


@triton.jit
def _cell_scores(
    q_ptr, k_ptr, query, q_len, key, kv_len, stride_qn, stride_kn,
    CELL: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr,
    STAGES: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Return ``[ROWS, COLS]`` antidiagonal sums of the cells at ``q_ptr`` and ``k_ptr``.

    ``query`` and ``key`` are the numbers of their first tokens, used where MASKED: tokens outside the call are zeros.
    """
    PARTS: tl.constexpr = HEAD_DIM // STEP
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, COLS)[:, None]
    dim = tl.arange(0, STEP)[None, :]
    q_tile = q_ptr + rows * (CELL * stride_qn) + dim
    k_tile = k_ptr + cols * (CELL * stride_kn) + dim
    scores = tl.zeros((ROWS, COLS), tl.float32)
    for step in tl.range(0, CELL * PARTS, num_stages=STAGES):
        t = step // PARTS
        part = step % PARTS * STEP
        if MASKED:
            token = query + rows * CELL + (CELL - 1 - t)
            q = tl.load(q_tile + ((CELL - 1 - t) * stride_qn + part), mask=(token >= 0) & (token < q_len), other=0.0)
            k = tl.load(k_tile + (t * stride_kn + part), mask=key + cols * CELL + t < kv_len, other=0.0)
        else:
            q = tl.load(q_tile + ((CELL - 1 - t) * stride_qn + part))
            k = tl.load(k_tile + (t * stride_kn + part))
        scores = tl.dot(q, k.T, scores, input_precision="ieee")
    return scores


@triton.jit
def _fold(
    scores, highest, total, sums_ptr, peaks_ptr, tile, x, width, scale_log2,
    CELLS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ROUNDED: tl.constexpr, PEAKS: tl.constexpr,
    MASKED: tl.constexpr, dtype,
):  # fmt: skip
    """Fold a tile of scores into the running softmax; write each block's sums and the maximum they are relative to.

    For PEAKS a block's largest weight stands in place of its sum.
    """
    BLOCKS: tl.constexpr = COLS // CELLS
    if ROUNDED:
        scores = scores.to(dtype).to(tl.float32)
    scores *= scale_log2
    if MASKED:
        y = tile * COLS + tl.arange(0, COLS)
        scores = tl.where(y[None, :] <= x[:, None], scores, float("-inf"))
    new_highest = tl.maximum(highest, tl.max(scores, 1))
    if PEAKS:
        by_block = tl.exp2(tl.max(tl.reshape(scores, (ROWS, BLOCKS, CELLS)), 2) - new_highest[:, None])
    else:
        weights = tl.exp2(scores - new_highest[:, None])
        by_block = tl.sum(tl.reshape(weights, (ROWS, BLOCKS, CELLS)), 2)
    total = total * tl.exp2(highest - new_highest) + tl.sum(by_block, 1)
    rows = tl.arange(0, ROWS)
    tl.store(sums_ptr + rows[:, None] * width + tile * BLOCKS + tl.arange(0, BLOCKS)[None, :], by_block)
    tl.store(peaks_ptr + tile * ROWS + rows, new_highest)
    return new_highest, total


@triton.jit(do_not_specialize=SIZES)
def _antidiagonal_kernel(
    q_ptr, k_ptr, weights_ptr, sums_ptr, peaks_ptr, scale_log2,
    q_len, kv_len, first, rows, key_blocks, batch_heads, q_heads, group, row_tiles, width, key_tiles,
    stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, CELL: tl.constexpr, ROUNDED: tl.constexpr, PEAKS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    CELLS: tl.constexpr = BLOCK // CELL
    BLOCKS: tl.constexpr = COLS // CELLS
    QUERY_BLOCKS: tl.constexpr = ROWS // CELLS
    program = tl.program_id(0)
    sums_ptr += program.to(tl.int64) * ROWS * width
    peaks_ptr += program.to(tl.int64) * ROWS * key_tiles
    offset = kv_len - q_len
    cells = (kv_len + CELL - 1) // CELL
    for task in range(program, row_tiles * batch_heads, tl.num_programs(0)):
        row_tile = row_tiles - 1 - task // batch_heads
        batch_head = task % batch_heads
        batch = (batch_head // q_heads).to(tl.int64)
        head = (batch_head % q_heads).to(tl.int64)
        kv_head = (batch_head % q_heads // group).to(tl.int64)
        x0 = first * CELLS + row_tile * ROWS
        x = x0 + tl.arange(0, ROWS)
        query = x0 * CELL - offset
        q_tile = q_ptr + batch * stride_qb + head * stride_qh + query.to(tl.int64) * stride_qn
        k_base = k_ptr + batch * stride_kb + kv_head * stride_kh
        tile_stride = tl.full((), COLS * CELL, tl.int64) * stride_kn
        highest = tl.full((ROWS,), -1.0e30, tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        # Tiles wholly in the past of wholly present rows need no mask.
        whole = (query >= 0) & (query + ROWS * CELL <= q_len)
        clear = tl.where(whole, x0 // COLS, 0)
        for tile in range(0, clear):
            k_tile = k_base + tile * tile_stride
            scores = _cell_scores(
                q_tile, k_tile, query, q_len, 0, kv_len, stride_qn, stride_kn,
                CELL, HEAD_DIM, ROWS, COLS, STEP, STAGES, False,
            )  # fmt: skip
            highest, total = _fold(
                scores, highest, total, sums_ptr, peaks_ptr, tile, x, width, scale_log2,
                CELLS, ROWS, COLS, ROUNDED, PEAKS, False, q_ptr.dtype.element_ty,
            )  # fmt: skip
        end = tl.minimum(x0 + ROWS, cells)
        for tile in range(clear, (end + COLS - 1) // COLS):
            k_tile = k_base + tile * tile_stride
            scores = _cell_scores(
                q_tile, k_tile, query, q_len, tile * COLS * CELL, kv_len, stride_qn, stride_kn,
                CELL, HEAD_DIM, ROWS, COLS, STEP, STAGES, True,
            )  # fmt: skip
            highest, total = _fold(
                scores, highest, total, sums_ptr, peaks_ptr, tile, x, width, scale_log2,
                CELLS, ROWS, COLS, ROUNDED, PEAKS, True, q_ptr.dtype.element_ty,
            )  # fmt: skip

        tl.debug_barrier()  # every warp's sums are written before any warp reads them
        share = tl.where((x >= offset // CELL) & (x < cells), 1.0 if PEAKS else 1.0 / total, 0.0)
        in_tile = tl.arange(0, ROWS)
        row = row_tile * QUERY_BLOCKS + tl.arange(0, QUERY_BLOCKS)
        out = weights_ptr + (batch_head * rows).to(tl.int64) * key_blocks + row[:, None].to(tl.int64) * key_blocks
        last = tl.minimum(first + (row_tile + 1) * QUERY_BLOCKS, key_blocks)
        for start in range(0, last, AT_ONCE):
            c = start + tl.arange(0, AT_ONCE)
            seen = c < last
            sums = tl.load(sums_ptr + in_tile[:, None] * width + c[None, :], mask=seen[None, :], other=0.0)
            peaks = tl.load(peaks_ptr + (c // BLOCKS)[None, :] * ROWS + in_tile[:, None], mask=seen[None, :], other=0.0)
            mass = sums * tl.exp2(peaks - highest[:, None]) * share[:, None]
            of_cells = tl.reshape(mass, (QUERY_BLOCKS, CELLS, AT_ONCE))
            mass = tl.sum(of_cells, 1)
            if PEAKS:
                mass = tl.where(tl.max(of_cells, 1) >= NEARLY, -mass, mass)
            if ROUNDED:
                mass = mass.to(q_ptr.dtype.element_ty).to(tl.float32)
            tl.store(out + c[None, :], mass, mask=(row < rows)[:, None] & seen[None, :])
        tl.debug_barrier()  # the scratch is read before the next tile overwrites it


@triton.jit(do_not_specialize=SIZES)
def _cumulative_kernel(
    weights_ptr, tau_ptr, blocks_ptr, counts_ptr, lagging, first, rows, key_blocks, q_heads, WIDTH: tl.constexpr,
    PEAKS: tl.constexpr,
):  # fmt: skip
    # The longest rows first: they take the same time, but their stores are the longest.
    row = rows - 1 - tl.program_id(0) % rows
    batch_head = tl.program_id(0) // rows
    a = first + row
    list_row = (batch_head * rows + row).to(tl.int64)
    c = tl.arange(0, WIDTH)
    mass = tl.load(weights_ptr + list_row * key_blocks + c, mask=c <= a, other=0.0)
    if PEAKS:  # negative: holds a cell's largest score, and goes first
        leads = mass < 0.0
        mass = tl.abs(mass)
    need = tl.load(tau_ptr + batch_head % q_heads) * tl.sum(mass, 0)
    lags = a < lagging
    forced = (c == a) | ((c == 0) & (lags == 0))
    held = tl.sum(tl.where(forced, mass, 0.0), 0)
    others = tl.where(forced | (c > a), 0.0, mass)
    bits = others.to(tl.int32, bitcast=True)
    if PEAKS:  # masses up to 128, brought below 2, leave bit 30 to the blocks that go first
        bits = (others / 128).to(tl.int32, bitcast=True)
        bits = tl.where(leads & (others > 0.0), bits | (1 << 30), bits)
    # The largest value such that all from it on are enough: 0 where everything is not.
    crossing = 0
    for step in tl.static_range(31):
        candidate = crossing | (1 << (30 - step))
        enough = held + tl.sum(tl.where(bits >= candidate, others, 0.0), 0) >= need
        crossing = tl.where(enough, candidate, crossing)
    before = held + tl.sum(tl.where(bits > crossing, others, 0.0), 0)
    # Of equal values the first ones, as many as it takes.
    free = (c <= a) & (forced == 0)
    equal = free & (bits == crossing)
    rank = tl.cumsum(equal.to(tl.int32), 0) - 1
    taken = (free & (bits > crossing)) | (equal & (before + rank.to(tl.float32) * others < need))
    # The official slip takes one more, the largest that is left.
    left = tl.where(free & (taken == 0), bits, -1)
    most = tl.max(left, 0)
    extra = tl.min(tl.where((left == most) & (left >= 0), c, WIDTH), 0)
    taken |= lags & (need > 0) & (c == extra)
    keep = ((taken | (c == 0) | (c == a)) & (c <= a)).to(tl.int32)
    place = tl.cumsum(keep, 0) - 1
    tl.store(blocks_ptr + list_row * key_blocks + place, c.to(tl.int16), mask=keep > 0)
    tl.store(counts_ptr + list_row, tl.sum(keep, 0))


_antidiagonal = CachedKernel(_antidiagonal_kernel)
_cumulative = CachedKernel(_cumulative_kernel)


def launch_config(head_dim: int, capability: int) -> dict[str, int]:
    """Return tile sizes, stages and warps by chip; ROWS and COLS are cells, multiples of what a block holds.

    Args:
        head_dim: a multiple of STEP, or less than it.
        capability: ten times the CUDA compute capability; 0 for AMD.
    """
    if capability in (90, 100, 103):
        return {"ROWS": 128, "COLS": 256, "STEP": min(head_dim, 64), "STAGES": 3, "num_warps": 8}
    # 99 KB of shared memory and up; compiled for sm_80 and sm_89, not timed there.
    stages = 2 if capability else 1
    return {"ROWS": 128, "COLS": 128, "STEP": min(head_dim, 64), "STAGES": stages, "num_warps": 8}


def antidiagonal_weights_triton(
    q: Tensor, k: Tensor, stride: int, scale: float, block_size: int, rounded: bool, peaks: bool = False
) -> Tensor:
    """Return `xattention.antidiagonal_weights`, or `antidiagonal_peaks`; what lies in the future is not written."""
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, _, q_heads, head_dim = q.shape
    config = launch_config(head_dim, capability(q.device))
    cells = block_size // stride
    row_tiles = triton.cdiv(grid.rows * cells, config["ROWS"])
    key_tiles = triton.cdiv(grid.key_blocks * cells, config["COLS"])
    width = key_tiles * (config["COLS"] // cells)
    tasks = row_tiles * batch * q_heads
    programs = min(tasks, multiprocessors(q.device) if q.is_cuda else 2)
    weights = torch.empty((batch, q_heads, grid.rows, grid.key_blocks), dtype=torch.float32, device=q.device)
    sums = torch.empty((programs, config["ROWS"], width), dtype=torch.float32, device=q.device)
    highest = torch.empty((programs, key_tiles, config["ROWS"]), dtype=torch.float32, device=q.device)
    num_warps = config.pop("num_warps")
    _antidiagonal(
        programs,
        (q, k, weights, sums, highest),
        (scale * LOG2E / stride,),
        (
            *(grid.q_len, grid.kv_len, grid.first, grid.rows, grid.key_blocks),
            *(batch * q_heads, q_heads, q_heads // k.shape[2], row_tiles, width, key_tiles),
            *(*q.stride()[:3], *k.stride()[:3]),
        ),
        {
            "BLOCK": block_size,
            "HEAD_DIM": head_dim,
            "CELL": stride,
            "ROUNDED": rounded,
            "PEAKS": peaks,
            **config,
            "AT_ONCE": BLOCKS_AT_ONCE,
        },
        {"num_warps": num_warps},
    )
    return weights


def cumulative_blocks_triton(
    weights: Tensor, tau: Tensor, lagging: int, index: BlockIndex, peaks: bool = False
) -> None:
    """Fill ``index`` with the sets that hold enough; arguments as `xattention.cumulative_blocks`."""
    grid = index.grid
    batch, q_heads = weights.shape[:2]
    width = max(triton.next_power_of_2(grid.key_blocks), 16)
    _cumulative(
        grid.rows * batch * q_heads,
        (weights, tau, index.blocks, index.counts),
        (),
        (lagging, grid.first, grid.rows, grid.key_blocks, q_heads),
        {"WIDTH": width, "PEAKS": peaks},
        {"num_warps": 1 if width <= 256 else 4 if width <= 4096 else 16},
    )
