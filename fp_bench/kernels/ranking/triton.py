"""The best blocks of each row in one Triton kernel, without a sort.

One program holds the scores of one row in registers, band after band. It reads scores as integers in the same order
and finds the last one taken by bisection over their 32 bits, so the number of sums does not depend on the data. A
prefix sum takes the first of equal scores; a second one writes the list in ascending order. The 32 reductions limit
it, each over ``key_blocks`` numbers: 16 for each of 256 threads at 512K.
"""

import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.ranking import Need

SIZES = ("sink", "window", "first", "rows", "key_blocks", "lists")
"""Arguments that a kernel is not compiled again for."""


@triton.jit(do_not_specialize=SIZES)
def _best_kernel(
    scores_ptr, need_ptr, blocks_ptr, counts_ptr, sink, window, first, rows, key_blocks, lists,
    BANDS: tl.constexpr, WEIGHED: tl.constexpr, WITHIN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = rows - 1 - tl.program_id(0) % rows
    number = tl.program_id(0) // rows
    a = first + row
    c = tl.arange(0, WIDTH)
    causal = c <= a
    keep = (c < sink) | (a - c < window)
    for band in tl.static_range(BANDS):
        of_row = ((band * lists + number).to(tl.int64) * rows + row) * key_blocks
        score = tl.load(scores_ptr + of_row + c, mask=causal, other=float("-inf"))
        keep |= score == float("inf")
        free = (score > float("-inf")) & (score < float("inf"))
        need = tl.load(need_ptr + band * rows + row)
        weight = free.to(tl.float32)
        if WEIGHED:
            highest = tl.max(tl.where(free, score, -3.0e38), 0)
            weight = tl.where(free, tl.exp2(score - highest), 0.0)
            need *= tl.sum(weight, 0)
        bits = score.to(tl.int32, bitcast=True)
        # Integers in the order of the scores: of negative numbers the lower bits count backwards.
        ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        # The largest value such that all from it on are enough; the smallest there is where everything is not.
        enough = tl.sum(tl.where(ordered >= 0, weight, 0.0), 0) >= need
        crossing = tl.where(enough, 0, -2147483648)
        for step in tl.static_range(31):
            candidate = crossing + (1 << (30 - step))
            enough = tl.sum(tl.where(ordered >= candidate, weight, 0.0), 0) >= need
            crossing = tl.where(enough, candidate, crossing)
        before = tl.sum(tl.where(ordered > crossing, weight, 0.0), 0)
        equal = free & (ordered == crossing)
        rank = (tl.cumsum(equal.to(tl.int32), 0) - 1).to(tl.float32)
        if WITHIN:
            some = before + (rank + 1) * weight <= need
            most = tl.max(tl.where(free, ordered, -2147483648), 0)
            best = tl.min(tl.where(free & (ordered == most), c, WIDTH), 0)
            keep |= c == best
        else:
            some = before + rank * weight < need
        keep |= (free & (ordered > crossing)) | (equal & some)
    kept = (keep & causal).to(tl.int32)
    place = tl.cumsum(kept, 0) - 1
    list_row = (number * rows + row).to(tl.int64)
    tl.store(blocks_ptr + list_row * key_blocks + place, c.to(tl.int16), mask=kept > 0)
    tl.store(counts_ptr + list_row, tl.sum(kept, 0))


_best = CachedKernel(_best_kernel)


def list_best_triton(
    scores: Tensor, need: Tensor, kind: Need, index: BlockIndex, lists: slice, sink_blocks: int, window_blocks: int
) -> None:
    """Fill lists as `ranking.list_best`."""
    grid = index.grid
    bands, count = scores.shape[:2]
    width = max(triton.next_power_of_2(grid.key_blocks), 16)
    _best(
        grid.rows * count,
        (scores, need, index.blocks.flatten(0, 1)[lists], index.counts.flatten(0, 1)[lists]),
        (),
        (sink_blocks, window_blocks, grid.first, grid.rows, grid.key_blocks, count),
        {
            "BANDS": bands,
            "WEIGHED": kind is not Need.COUNT,
            "WITHIN": kind is Need.SHARE_WITHIN,
            "WIDTH": width,
        },
        {"num_warps": 1 if width <= 256 else 4 if width <= 4096 else 16},
    )
